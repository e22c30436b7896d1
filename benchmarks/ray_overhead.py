"""What Ray costs around the alignment stage: Data -> Serve oracle -> Train against the same loop in one bare process.

    python benchmarks/ray_overhead.py
    python benchmarks/ray_overhead.py --quick

One side is the package's own stage function with one training worker on a local cluster. The other is the same program
in one process that never connects to Ray: the same pairs in the same order, tokenised and packed by the same code,
trained by the same loop from the same weights, the oracle asked directly, 128 pairs at a time, while a batch is made.
Pairs are small, so Ray's stream runs ahead as it does in any run: most answers are there long before their step. Both
train on one thread; losses are compared step by step, and the script ends with an error where they differ.

The sides run in turn, --rounds times each, --steps steps a run, of which the first --warmup are left out (they hold
the start of the stream). A run's time per step is the mean over the others, the figure the median over the rounds of
the ratio of neighbouring runs. Start-up is listed apart.

`--quick` uses a policy of 2 M parameters (the quickstart's shape) and one round: a step is then several times shorter,
so Ray weighs more. Its result has another name.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alignment_workload as workload
import numpy as np
from harness import Figure, Promise, figure, write

from rosepo_ray.run.settings import Settings

if TYPE_CHECKING:
    from rosepo_ray.oracle.protocol import Oracle

ASK_ROWS = 128
LOSS_TOLERANCE = 1e-3
"""Of one another, in nats: two processes may sum in another order, and differences grow over the steps."""


def bare(settings: Settings, inputs: dict[str, str]) -> list[dict[str, float]]:
    """Alignment in this process alone; the loop's metrics of each step, with `ask_seconds` for the oracle's share."""
    import torch

    from rosepo_ray import storage
    from rosepo_ray.oracle import store
    from rosepo_ray.stages.align import program
    from rosepo_ray.training import in_process
    from rosepo_ray.training.world import World

    torch.set_num_threads(settings.cluster.threads or 1)
    oracle = store.load(storage.join(inputs["calibrate"], "oracle"))
    pairs = Direct(inputs["reject"], oracle, settings.oracle.epsilon_max)
    made = program(
        inputs["data"], inputs["sft"], inputs["reject"], pairs, settings.align, settings.scoring, settings.seed, World()
    )
    found: list[dict[str, float]] = []

    def on_step(step: int, metrics: dict[str, float]) -> None:
        found.append({**metrics, "ask_seconds": pairs.seconds})
        pairs.seconds = 0.0

    in_process.train(made, settings.align, math.ceil(len(made.units) / settings.align.batch), on_step)
    assert "ray" not in sys.modules
    return found


class Direct:
    """Pairs in the wanted order, the oracle asked in this process about ASK_ROWS of them whenever those run out."""

    def __init__(self, pairs: str, oracle: Oracle, epsilon_max: float) -> None:
        self.pairs, self.oracle, self.epsilon_max, self.seconds = pairs, oracle, epsilon_max, 0.0

    def __call__(self, example_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        from rosepo_ray.storage import tables

        found = {row["example_id"]: row for row in tables.read(self.pairs, "pairs", split="train").to_pylist()}
        for start in range(0, len(example_ids), ASK_ROWS):
            batch = [found[name] for name in example_ids[start : start + ASK_ROWS]]
            began = time.perf_counter()
            self.ask(batch)
            self.seconds += time.perf_counter() - began
            yield from batch

    def ask(self, batch: list[dict[str, Any]]) -> None:
        from rosepo_ray.oracle import judging, smoothing

        names = ("user_id", "history", "chosen", "rejected")
        request = judging.as_request(*[[row[name] for row in batch] for name in names])
        for row, doubt in zip(batch, judging.judge(self.oracle, request)["disagreement"], strict=True):
            is_item = np.array([item is not None for item in row["rejected"]])
            row["epsilon"] = smoothing.clip(np.array(doubt), is_item, self.epsilon_max).tolist()


def bare_process(folder: Path) -> tuple[list[dict[str, float]], float]:
    """:func:`bare` in a fresh process; its metrics and the seconds before its first step."""
    answer = folder / "bare.json"
    began = time.perf_counter()
    command = [sys.executable, __file__, "--bare", str(folder / "bare-arguments.json"), "--out", str(answer)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    elapsed = time.perf_counter() - began
    rows = json.loads(answer.read_text())
    return rows, elapsed - sum(row["step_seconds"] for row in rows)


def ray_stage(settings: Settings, inputs: dict[str, str], out: str) -> tuple[list[dict[str, float]], float]:
    """The stage as the pipeline runs it; its metrics and the seconds that are no step."""
    from rosepo_ray.stages.align import align
    from rosepo_ray.storage import metrics

    began = time.perf_counter()
    align.start(settings, inputs, out)
    elapsed = time.perf_counter() - began
    rows = metrics.read(out)
    return rows, elapsed - sum(row["step_seconds"] for row in rows)


def digest(rows: list[dict[str, float]], warmup: int, apart: float) -> dict[str, float]:
    """Of one run: mean seconds of a step, the shares of it that wait, and the seconds outside the steps."""
    steady = rows[warmup:]
    spent = sum(row["step_seconds"] for row in steady)
    return {
        "step_seconds": spent / len(steady),
        "wait_share": sum(row["wait_share"] * row["step_seconds"] for row in steady) / spent,
        "ask_share": sum(row.get("ask_seconds", 0.0) for row in steady) / spent,
        "first_wait_seconds": rows[0]["wait_share"] * rows[0]["step_seconds"],
        "start_seconds": apart,
        "steps": len(steady),
    }


def same_losses(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The largest difference of a step's loss. Raises SystemExit where the sides did not train on the same."""
    worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, other, strict=True))
    if worst > LOSS_TOLERANCE:
        raise SystemExit(f"error: the losses of the two sides differ by up to {worst:.3g}: they are not the same loop")
    return worst


def compare(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Figures and details of all rounds. Starts a local Ray cluster and ends it."""
    from rosepo_ray.on_ray import cluster

    settings = workload.settings(folder, given.size, given.batch, given.steps)
    cluster.start(settings.cluster, settings.oracle.served)
    try:
        inputs = workload.prepare(settings, str(folder / "run"))
        arguments = {"settings": settings.model_dump(), "inputs": inputs}
        (folder / "bare-arguments.json").write_text(json.dumps(arguments))
        sides: dict[str, list[dict[str, float]]] = {"ray": [], "bare": []}
        differences, tokens = [], 0.0
        for number in range(given.rounds):
            out = str(folder / f"align{number}")
            if number % 2:  # neither side is always the first
                inside, inside_apart = ray_stage(settings, inputs, out)
                alone, alone_apart = bare_process(folder)
            else:
                alone, alone_apart = bare_process(folder)
                inside, inside_apart = ray_stage(settings, inputs, out)
            differences.append(same_losses(inside, alone))
            tokens = sum(row["tokens_per_second"] * row["step_seconds"] for row in alone) / len(alone)
            sides["ray"].append(digest(inside, given.warmup, inside_apart))
            sides["bare"].append(digest(alone, given.warmup, alone_apart))
            for name in sides:
                print(f"round {number + 1} {name:4} {sides[name][-1]}", file=sys.stderr, flush=True)
    finally:
        cluster.stop()
    pairs = list(zip(sides["ray"], sides["bare"], strict=True))
    overhead, waiting = Promise(1.10, 1.03, lower_is_better=True), Promise(0.03, 0.01, lower_is_better=True)
    figures = {
        "ray_overhead": figure([r["step_seconds"] / b["step_seconds"] for r, b in pairs], overhead),
        "oracle_wait_share": figure([r["wait_share"] for r, _ in pairs], waiting, "of a step"),
        "bare_wait_share": figure([b["wait_share"] for _, b in pairs], unit="of a step"),
        "bare_oracle_share": figure([b["ask_share"] for _, b in pairs], unit="of a step"),
        "bare_step": figure([b["step_seconds"] for _, b in pairs], unit="s"),
        "ray_first_wait": figure([r["first_wait_seconds"] for r, _ in pairs], unit="s"),
        "ray_start": figure([r["start_seconds"] for r, _ in pairs], unit="s"),
        "bare_start": figure([b["start_seconds"] for _, b in pairs], unit="s"),
    }
    details = {
        "what": "ray_overhead: mean time of a steady step in the Ray stage / in the bare process. oracle_wait_share: "
        "share of a steady step in which the trainer waits for its next batch (tokenising and packing included).",
        "workload": {
            **{name: getattr(given, name) for name in ("size", "batch", "steps", "warmup", "rounds")},
            "model": asdict(workload.SIZES[given.size]),
            "pairs": given.batch * given.steps,
            "k": workload.REJECTED,
            "tokens_a_step": tokens,
        },
        "largest_loss_difference": max(differences),
        "runs": sides,
    }
    return figures, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small policy, one round")
    parser.add_argument("--size", choices=list(workload.SIZES), help="default: large, with --quick small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=8, help="first steps of each run that are left out")
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 1")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)  # the other side, started by this script
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare is not None:
        arguments = json.loads(given.bare.read_text())
        rows = bare(Settings.model_validate(arguments["settings"]), arguments["inputs"])
        given.out.write_text(json.dumps(rows))
        return
    given.size = given.size or ("small" if given.quick else "large")
    given.rounds = given.rounds or (1 if given.quick else 5)
    with tempfile.TemporaryDirectory(prefix="rosepo-overhead-") as folder:
        figures, details = compare(given, Path(folder))
    write("ray_overhead_quick" if given.size == "small" else "ray_overhead", figures, details)


if __name__ == "__main__":
    main()
