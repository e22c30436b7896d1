"""One optimiser step of preference training: shared prefixes against separate rows, TRL and the machine's own limit.

    make bench                      # or: python benchmarks/step.py
    python benchmarks/step.py --full --model ISSUE LARGE QUICKSTART

For each K (rejected items) all sides run in one process, interleaved, on one thread:

- `packed`: this repository, from token ids to the optimiser's step, stored reference log-probabilities;
- `separate`, with --full also `separate_own`: the controls of sides.py;
- `trl_cached`, `trl_live` (K = 1 and 15): TRL's DPOTrainer (trl_side.py), K items as K pairs;
- in a group of their own (K = 1, with --full also 3), with `packed`: `bound`, the seconds that flop_bound.py says the
  packed step must take (`step_flop_fraction` = bound / packed).

The package groups rows by length itself. The competitors first try a few numbers of rows a pass and keep the fastest.
A step has 8 examples; without --full 4, 2, 1 and 1 for K = 1, 3, 7 and 15, the same for all sides of a ratio, but 8 in
the group of `bound` and for memory (step_memory.py, in fresh processes). LARGE (125 M parameters) and QUICKSTART (that
recipe's model and lengths) have numbers of examples and results of their own, and no thresholds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import harness
import step_memory
import workload
from flop_bound import Bound
from harness import Figure, Promise, Side, Times, figure, measure, ratio
from sides import Step, packed_logps, separate_logps, separate_own_logps
from trl_side import TrlStep, build_trainer, difference
from workload import Examples, Workload, adapted_model, examples

PROMISES = {
    "step_vs_trl_cached_k1": Promise(2.8, 3.5),
    "step_vs_trl_live_k1": Promise(4.0, 5.0),
    "step_vs_separate_k1": Promise(2.0, 2.2),
    "step_vs_separate_k3": Promise(2.8, 3.5),
    "step_vs_separate_k7": Promise(6.0, 7.0),
    "step_vs_separate_k15": Promise(10.0, 13.0),
    "step_vs_trl_k15": Promise(22.0, 40.0),
    "step_flop_fraction": Promise(0.70, 0.85),
    "step_memory_vs_trl": Promise(0.22, 0.15, lower_is_better=True),
    "step_memory_vs_separate": Promise(0.32, 0.25, lower_is_better=True),
}
FULL_EXAMPLES = {
    "ISSUE": {1: 8, 3: 8, 7: 8, 15: 8},
    "LARGE": {1: 2, 3: 1},
    "QUICKSTART": {1: 64, 4: 64},
    "TINY": {1: 2, 15: 1},
}
"""Examples a step by K."""
QUICK_EXAMPLES = {**FULL_EXAMPLES, "ISSUE": {1: 4, 3: 2, 7: 1, 15: 1}}
RESULTS = {"ISSUE": "step", "LARGE": "step_125m", "QUICKSTART": "step_quickstart", "TINY": "step_tiny"}
ROWS_AT_ONCE = (2, 4, 16, 64, 128)
"""Rows (prompt and response) of a pass that the competitors try."""
MOST_TOKENS, MOST_TOKENS_QUICK = 5_000, 2_000
"""Of such a pass. Larger ones are now fast, now slow, as the allocator finds room; they are tried with --full only."""
SEPARATE = {"separate": separate_logps, "separate_own": separate_own_logps}


@dataclass
class Tuning:
    """Rows a pass of each kind of competitor, found when it is first needed."""

    most_tokens: int
    rows: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str, make: Callable[[int], Callable[[], None]], length: int) -> int:
        """The fastest number of rows of `length` tokens, by processor time, the better of two steps each."""
        if kind not in self.rows:
            best: dict[int, float] = {}
            for rows in (rows for rows in ROWS_AT_ONCE if rows * length <= self.most_tokens):
                step = make(rows)
                for _ in range(2):
                    began = time.process_time()
                    step()
                    best[rows] = min(best.get(rows, float("inf")), time.process_time() - began)
            print(f"{kind}: seconds by rows a pass: {best}", flush=True)
            self.rows[kind] = min(best, key=lambda rows: best[rows])
        return self.rows[kind]


def build(name: str, shape: Workload, batch: Examples) -> Callable[[int], Callable[[], None]]:
    """A competitor's step, given the rows of a pass."""
    if name in SEPARATE:
        model, each = adapted_model(shape), len(batch.responses[0])
        return lambda rows: Step(model, partial(SEPARATE[name], rows=rows), batch, max(1, rows // each))
    trainer = build_trainer(shape, batch, cached=name == "trl_cached")
    return lambda rows: TrlStep(trainer, max(1, rows // 2))


def group(
    shape: Workload, count: int, rejected: int, names: Sequence[str], rounds: int, tuning: Tuning
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Times of the named sides on one batch, and what was chosen."""
    batch = examples(shape, count, 1 + rejected)
    bound = Bound(shape, batch)
    packed = Step(adapted_model(shape), packed_logps, batch)  # the package groups rows itself
    sides: dict[str, Side] = {"packed": packed, "bound": bound.seconds}
    sides = {name: side for name, side in sides.items() if name in names}
    passes: dict[str, int] = {}
    for name in (name for name in names if name not in sides):
        make = build(name, shape, batch)
        kind = "trl" if name.startswith("trl") else name
        passes[name] = tuning.of(kind, make, sum(shape.prompt_tokens) // 2)
        sides[name] = make(passes[name])
    times = measure(sides, rounds)
    details: dict[str, Any] = {"examples": count, "rejected": rejected, "rows_a_pass": passes}
    if "bound" in times:
        details["bound"] = bound.report(statistics.median(times["bound"].wall))
    details["seconds"] = harness.seconds(times)
    return times, details


def sides_of(shape: Workload, rejected: int, full: bool) -> list[str]:
    names = ["packed", *(SEPARATE if full else ["separate"])]
    if rejected in (1, 15):
        names.append("trl_cached")
    if rejected == 1 and shape.lora:
        names.append("trl_live")
    return names


def promise_of(name: str, figure_name: str) -> Promise | None:
    """Thresholds hold for the issue's workload only."""
    return PROMISES.get(figure_name) if name == "ISSUE" else None


def time_figures(name: str, rounds: int, full: bool) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Figures and details."""
    shape: Workload = getattr(workload, name)
    found: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    tuning = Tuning(MOST_TOKENS if full else MOST_TOKENS_QUICK)
    for rejected, count in (FULL_EXAMPLES if full else QUICK_EXAMPLES)[name].items():
        times, details[f"k{rejected}"] = group(shape, count, rejected, sides_of(shape, rejected, full), rounds, tuning)
        for side in list(times)[1:]:
            figure_name = f"step_vs_{side}_k{rejected}"
            if side == "trl_cached" and rejected > 1:
                figure_name = f"step_vs_trl_k{rejected}"
            found[figure_name] = ratio(times[side], times["packed"], promise_of(name, figure_name))
    for rejected in sorted(set(FULL_EXAMPLES[name]) & ({1, 3} if full else {1})):
        count = FULL_EXAMPLES[name][rejected]
        times, details[f"bound_k{rejected}"] = group(shape, count, rejected, ["packed", "bound"], rounds, tuning)
        figure_name = "step_flop_fraction" + ("" if rejected == 1 else f"_k{rejected}")
        found[figure_name] = fraction(times["bound"], times["packed"], promise_of(name, figure_name))
    return found, details


def fraction(bound: Times, packed: Times, promise: Promise | None) -> Figure:
    return figure([b / p for b, p in zip(bound.wall, packed.wall, strict=True)], promise, unit="")


def memory_figures(name: str, full: bool) -> tuple[dict[str, Figure], dict[str, Any]]:
    found: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    count = FULL_EXAMPLES[name][1]
    for rejected in (1, 3) if full else (1,):
        sides = ("packed", "separate", "trl_cached")
        added = {side: step_memory.run_apart(side, name, count, rejected, 5 if full else 3) for side in sides}
        details[f"added_bytes_k{rejected}"] = added
        for other, side in (("trl", "trl_cached"), ("separate", "separate")):
            values = [ours / theirs for ours, theirs in zip(added["packed"], added[side], strict=True)]
            figure_name = f"step_memory_vs_{other}" + ("" if rejected == 1 else f"_k{rejected}")
            found[figure_name] = figure(values, promise_of(name, figure_name), unit="")
    return found, details


def run(name: str, rounds: int, full: bool, out: Path) -> None:
    """Measure one model and leave its result."""
    shape: Workload = getattr(workload, name)
    details: dict[str, Any] = {"workload": vars(shape), "losses": difference(shape, examples(shape, 2, 2))}
    print(f"{name}: loss of TRL and of this repository on the same pairs: {details['losses']}")
    figures, details["times"] = time_figures(name, rounds, full)
    if name in ("ISSUE", "TINY"):
        memory, details["memory"] = memory_figures(name, full)
        figures |= memory
    suffix = RESULTS[name].removeprefix("step")
    harness.write(RESULTS[name], {one + suffix: value for one, value in figures.items()}, details, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more examples a step, more sides and rounds")
    parser.add_argument("--rounds", type=int, help="timed rounds; default 5, with --full 9")
    parser.add_argument(
        "--model",
        nargs="+",
        choices=list(RESULTS),
        default=["ISSUE"],
        help="one result each; TINY: does the script run?",
    )
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    given = parser.parse_args()
    harness.need("trl", "datasets")
    harness.pin_threads()
    for name in given.model:
        run(name, given.rounds or (9 if given.full else 5), given.full, given.out)


if __name__ == "__main__":
    main()
