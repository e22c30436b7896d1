"""Rank a few candidates, then the whole catalogue, for one history.

python examples/score_candidates.py runs/NAME/align/FINGERPRINT/model    # what a run aligned
python examples/score_candidates.py HuggingFaceTB/SmolLM2-135M           # or any causal language model
"""

import sys

import rosepo_ray as rosepo

# Item ids and titles; of a run: rosepo.Dataset.read("runs/NAME/data/FINGERPRINT").catalogue
CATALOGUE = rosepo.Catalogue.from_titles(
    {
        "50": "Star Wars (1977)",
        "172": "The Empire Strikes Back (1980)",
        "181": "Return of the Jedi (1983)",
        "204": "Back to the Future (1985)",
        "313": "Titanic (1997)",
        "98": "The Silence of the Lambs (1991)",
    }
)
HISTORY = ["50", "172"]  # oldest first


def main(model: str) -> None:
    policy = rosepo.Policy.from_pretrained(model)

    # A score is the log-probability of the title: summed over its tokens and the one that ends it, in nats.
    for item, title, score in policy.rank(CATALOGUE, HISTORY, candidates=["313", "181", "98"]):
        print(f"{score:8.2f}  {title} ({item})")

    # Without candidates the whole catalogue is searched, exactly; what the history holds is left out.
    print("best of all:", [title for _, title, _ in policy.rank(CATALOGUE, HISTORY, top=2)])

    # What it writes by itself need not be an item; `named` finds the item that a text spells.
    text = policy.write(CATALOGUE, HISTORY)
    print("written:", repr(text), "which is item", CATALOGUE.named(text))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except IndexError:
        sys.exit(f"usage: {sys.argv[0]} FOLDER|HUB_NAME")
    except rosepo.BadInput as error:  # one sentence: what was given, why it cannot work, what to do
        sys.exit(f"error: {error}")
