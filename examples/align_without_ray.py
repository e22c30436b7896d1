"""The whole method in one process, without Ray and MLflow: a tiny policy on a made-up log, in half a minute.

python examples/align_without_ray.py
"""

import random

import rosepo_ray as rosepo

THEMES = ("Harbour", "Desert", "Winter", "Circus", "Orchard", "Signal")
KINDS = ("Night", "Letters", "Return", "Secrets", "Garden", "Music", "Shadows", "Bridge")


def made_up_log(users: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What each user took, oldest first, and the title of every item. Users stay with a theme for a while."""
    draw = random.Random(0)
    titles = {f"{theme}-{kind}": f"{theme} {kind}" for theme in THEMES for kind in KINDS}
    taken: dict[str, list[str]] = {}
    for user in range(users):
        items, theme = list[str](), draw.choice(THEMES)
        while len(items) < 14:
            theme = draw.choice(THEMES) if draw.random() < 0.2 else theme
            free = [item for item in titles if item.startswith(theme) and item not in items]
            items += [draw.choice(free)] if free else []
        taken[f"u{user}"] = items
    return taken, titles


def main() -> None:
    taken, titles = made_up_log(users=150)
    # A user's last item is the test, the one before it validation; each row has 8 candidates.
    dataset = rosepo.Dataset.from_sequences(taken, titles, history=5, candidates=8)

    # The sections of a recipe. Sections left out have the pipeline's defaults.
    found = rosepo.align(
        dataset,
        seed=1,
        policy={"type": "scratch", "hidden": 32, "layers": 1, "heads": 2, "vocabulary": 400},
        sft={"steps": 250, "batch": 16, "lr": 1e-2},
        oracle={"type": "sasrec", "hidden": 16, "layers": 1, "steps": 150, "batch": 32, "lr": 1e-2},
        rejection={"examples": 400},
        align={"objective": rosepo.losses.Conservative(beta=0.2), "batch": 16, "lr": 1e-3},
    )

    # Every metric with its interval, on the test rows; "popular" comes along as a control.
    models = {"sft": found.sft, "aligned": found.policy}
    judged = rosepo.evaluate(dataset, models, draws=200, generate=False, catalogue_examples=0)
    for name, metrics in judged["models"].items():
        print(f"HR@1 {name:8} {metrics['hr@1']['value']:.3f}")

    # What the aligned policy recommends to a user: the whole catalogue, without what was taken.
    for item, title, score in found.policy.rank(dataset.catalogue, taken["u0"][-5:], top=3):
        print(f"{score:7.2f}  {title} ({item})")


if __name__ == "__main__":
    main()
