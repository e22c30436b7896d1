"""The ten best titles of a whole catalogue, exactly: best-first search against scoring all titles on one trie.

    python benchmarks/catalogue_search.py --run RUN_DIRECTORY
    python benchmarks/catalogue_search.py --quick

Both sides compute a prompt once and share the beginnings of titles; both give the same ranking, and the script
ends with an error where they differ. Prompts are those of validation rows, the same batch
of users on both sides; the search would gain from larger batches, which the other side does not need.

- `topk_vs_all_1682`: the SFT policy of a finished run on MovieLens-100K (`--run`, else the quickstart recipe's data and
  SFT stages are run first, some minutes) and its 1,682 titles.
- `topk_vs_all_50k`: 50,000 titles, each the beginning of one MovieLens title and the end of another. In the users'
  sequences every item gives way to a title that begins as its own does; a policy of the same shape is trained on them
  with the package's own SFT program for --steps dense steps, and asked for the next title.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from alignment_workload import sft_program
from harness import ROOT, Promise, figure, measure, pin_threads, ratio, seconds, write

from rosepo_ray.catalogue import ranks
from rosepo_ray.catalogue.requests import Request
from rosepo_ray.policy import store
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.search.ranking import Found, score_all, top_k
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt
from rosepo_ray.run import stage_store
from rosepo_ray.run.settings import Settings
from rosepo_ray.seeds import generator
from rosepo_ray.storage import tables

PROMISES = {"topk_vs_all_1682": Promise(goal=4), "topk_vs_all_50k": Promise(goal=20)}
TITLES, K, TOKENS = 50_000, 10, 4096


def finished_run(folder: Path) -> Path:
    """Data and SFT stages of the quickstart recipe, run below `folder`."""
    for stage in ("data", "sft"):
        command = [sys.executable, str(ROOT / "jobs/stage.py"), stage, "--recipe", "quickstart"]
        subprocess.run([*command, "--run.dir", str(folder)], check=True)
    return folder


def finished(run: Path, stage: str) -> Path:
    """The folder of a finished stage."""
    found = stage_store.names(str(run)).get(stage)
    if found is None or not (Path(found) / "_done.json").exists():
        raise SystemExit(f"{run} has no finished stage {stage}; give --run a run directory with one")
    return Path(found)


def prompts_of(policy: Policy, histories: list[list[str]]) -> list[EncodedPrompt]:
    return [policy.prompter.prompt_ids(Request(history)) for history in histories]


def recombined(titles: list[str], wanted: int, seed: int) -> list[tuple[int, str]]:
    """The titles and, until there are `wanted`, distinct recombinations; each with the item it begins as."""
    draw = generator(seed, "recombined")
    words = [title.split() for title in titles]
    found = {title: item for item, title in enumerate(titles)}
    while len(found) < wanted:
        first, second = draw.integers(0, len(words), 2)
        head, tail = words[first][: (len(words[first]) + 1) // 2], words[second][len(words[second]) // 2 :]
        found.setdefault(" ".join([*head, *tail]), int(first))
    return [(item, title) for title, item in found.items()]


def write_recombined(data: Path, out: Path, seed: int) -> tuple[list[str], list[list[str]]]:
    """A data folder whose items are recombined titles; returns the titles, and the validation histories in them."""
    items = tables.read(str(data), "items").to_pylist()
    place = {row["item_id"]: number for number, row in enumerate(items)}
    made = recombined([row["title"] for row in items], TITLES, seed)
    variants: list[list[int]] = [[] for _ in items]
    for number, (item, _) in enumerate(made):
        variants[item].append(number)
    popularity = np.zeros(len(made), np.int64)

    def other(user: str, taken: list[str]) -> list[int]:
        draw = generator(seed, "variant", user)
        return [variants[place[item]][draw.integers(len(variants[place[item]]))] for item in taken]

    sequences = []
    for row in tables.read(str(data), "sequences").to_pylist():
        taken = other(row["user_id"], row["items"])
        np.add.at(popularity, taken, 1)
        sequences.append({"user_id": row["user_id"], "items": [f"t{number}" for number in taken]})
    rows = [
        {"item_id": f"t{number}", "title": title, "genres": None, "popularity": int(popularity[number])}
        for number, (_, title) in enumerate(made)
    ]
    tables.write_part(str(out), "items", 0, tables.from_rows("items", rows))
    tables.write_part(str(out), "sequences", 0, tables.from_rows("sequences", sequences))
    examples = tables.read(str(data), "examples", split="validation").to_pylist()
    histories = [[made[n][1] for n in other(row["example_id"], row["history"])] for row in examples]
    return [title for _, title in made], histories


def train(settings: Settings, data: Path, steps: int) -> Policy:
    """Dense SFT in this process: the stage's own program and loop."""
    from rosepo_ray.training import in_process

    made = sft_program(settings, str(data))

    def told(step: int, metrics: dict[str, float]) -> None:
        if step % 25 == 0:
            print(f"step {step} of {steps}: loss {metrics['loss']:.3f}", file=sys.stderr, flush=True)

    in_process.train(made, settings.sft, steps, told)
    return made.policy


def fastest_chunk(policy: Policy, trie: TitleTrie, prompts: list[EncodedPrompt]) -> int:
    """The chunk with which scoring all titles takes the least processor time for two of the prompts."""
    spent = {}
    for chunk in (64, 128, 512):
        began = time.process_time()
        score_all(policy, trie, prompts[:2], chunk=chunk, tokens=TOKENS)
        spent[chunk] = time.process_time() - began
    return min(spent, key=lambda chunk: spent[chunk])


def compare(
    name: str, policy: Policy, titles: list[str], histories: list[list[str]], users: int, rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    trie = TitleTrie.build(policy.prompter, titles, [str(number) for number in range(len(titles))])
    draw = generator(1, "users", name)
    prompts = prompts_of(policy, [histories[i] for i in draw.choice(len(histories), users, replace=False)])
    row_ids = [f"row {number}" for number in range(users)]
    last: dict[str, Any] = {}

    def search() -> None:
        last["search"] = top_k(policy, trie, prompts, K, row_ids)

    def everything() -> None:
        last["all"] = score_all(policy, trie, prompts, chunk=chunk, tokens=TOKENS)

    chunk = fastest_chunk(policy, trie, prompts)

    times = measure({"search": search, "all": everything}, rounds)
    for found, scores, row_id in zip(last["search"], last["all"], row_ids, strict=True):
        best = ranks.top(row_id, trie.item_ids, scores, K)
        same(found, scores, (best, scores[best]))
    nodes = [one.nodes for one in last["search"]]
    details = {
        "items": trie.items,
        "nodes_that_scoring_all_reads": len(trie.read_R),
        "nodes_read_by_the_search": {"mean": float(np.mean(nodes)), "largest": max(nodes)},
        "scored_in_full": sum(one.scored_all for one in last["search"]),
        "users": users,
        "prompt_tokens": float(np.mean([len(prompt) for prompt in prompts])),
        "title_tokens": float(trie.depth_N[trie.leaf_I].mean()),
        "seconds": seconds(times),
    }
    milliseconds = [1000 * second / users for second in times["search"].wall]
    figures = {
        name: ratio(times["all"], times["search"], PROMISES[name]),
        name.replace("vs_all", "ms_per_user"): figure(milliseconds, unit="ms"),
    }
    return figures, {name: details}


def same(found: Found, scores: np.ndarray, best: tuple[np.ndarray, np.ndarray]) -> None:
    """Scores within 1e-4 are ties."""
    moved = found.items != best[0]
    if (
        np.abs(found.scores - best[1]).max() > 1e-4
        or np.abs(scores[found.items] - best[1])[moved].max(initial=0) > 1e-4
    ):
        raise SystemExit(f"the sides differ: {found.items} {found.scores} against {best[0]} {best[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run directory on MovieLens-100K")
    parser.add_argument("--users", type=int, default=64, help="with 1,682 titles; a quarter of them with 50,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="of the policy trained on 50,000 titles")
    parser.add_argument("--quick", action="store_true", help="16 users, 200 steps; the result has another name")
    given = parser.parse_args()
    if given.quick:
        given.users, given.steps = 16, 200
    pin_threads()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        run = given.run or finished_run(Path(temporary) / "run")
        settings = Settings.model_validate(yaml.safe_load((run / "settings.yaml").read_text()))
        data = finished(run, "data")
        items = tables.read(str(data), "items")
        title = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        examples = tables.read(str(data), "examples", split="validation")["history"].to_pylist()
        histories = [[title[item] for item in row] for row in examples]
        policy = store.load(finished(run, "sft") / "model")
        figures, details = compare(
            "topk_vs_all_1682", policy, list(title.values()), histories, given.users, given.rounds
        )
        titles, histories = write_recombined(data, Path(temporary) / "data", settings.seed)
        large = train(settings, Path(temporary) / "data", given.steps)
        more, further = compare("topk_vs_all_50k", large, titles, histories, given.users // 4, given.rounds)
    details |= further | {"quick": given.quick, "steps": given.steps}
    write("catalogue_search_quick" if given.quick else "catalogue_search", figures | more, details)


if __name__ == "__main__":
    main()
