"""Whole windows of 11 titles in one row (`align.dense`) against one row per pair, and against TRL.

    .venv-bench/bin/python benchmarks/step_dense.py

A window holds ten preference examples: at each position the next title is chosen, beside K rejected ones; the prompt is
all titles before (`prompt.template titles`). All sides train on the very same pairs, with the same matrix library, on
one thread, interleaved; the log-probabilities of the sides are compared before anything is timed.

- `dense`: the package's rows, a window each;
- `today`: the package's rows before, one prompt and its responses each;
- `trl_cached` (K = 1): TRL's DPOTrainer, its reference computed before; it tries a few numbers of rows a pass first.

`reject_dense_vs_today` is scoring alone (20 candidates at each position, no gradient), as rejection does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import workload
from harness import Promise, measure, ratio
from sides import Step, packed_logps
from step import Tuning, build
from torch import Tensor
from workload import END, FIRST_WORD, PAD, Examples, Workload, adapted_model

from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from rosepo_ray.training.buckets import buckets

POSITIONS = 10
PROMISES = {"step_dense_vs_trl_k1": Promise(10.0, 15.0)}
CANDIDATES = 20


def windows(shape: Workload, count: int, rejected: int, seed: int = 4) -> Examples:
    """`count` windows, POSITIONS examples each: the prompts of a window grow title by title."""
    rng = np.random.default_rng([seed, count, rejected])

    def title() -> list[int]:
        size = int(np.clip(round(rng.normal(shape.title_mean, shape.title_sd)), *shape.title_tokens))
        return [*(int(word) for word in rng.integers(FIRST_WORD, shape.vocabulary, size - 1)), END]

    prompts, responses = [], []
    for _ in range(count):
        prompt = [FIRST_WORD, *title()]
        for _ in range(POSITIONS):
            chosen = title()
            prompts.append(prompt)
            responses.append([chosen, *(title() for _ in range(rejected))])
            prompt = [*prompt, *chosen]
    return Examples(prompts, responses)


def dense_rows(batch: Examples) -> list[EncodedRow]:
    """A row for each window of the batch."""
    rows = []
    for start in range(0, len(batch), POSITIONS):
        here = slice(start, start + POSITIONS)
        prompts, responses = batch.prompts[here], batch.responses[here]
        trunk = EncodedPrompt([*prompts[-1], *responses[-1][0][:-1]])
        after = [len(prompt) - 1 for prompt, answers in zip(prompts, responses, strict=True) for _ in answers]
        rows.append(EncodedRow(trunk, [answer for answers in responses for answer in answers], after))
    return rows


def dense_logps(model: Any, batch: Examples) -> Tensor:
    logps: Tensor = PackedPolicy(model)(pack(dense_rows(batch), PAD))
    return logps


class DenseStep(Step):
    """A step whose passes hold whole windows, grouped by length as the package does."""

    def __init__(self, model: Any, batch: Examples) -> None:
        super().__init__(model, packed_logps, batch)
        self.logps = dense_logps

    def _groups(self) -> list[list[int]]:
        found = buckets([row.shape for row in dense_rows(self.batch)], most=32)
        return [[window * POSITIONS + n for window in group for n in range(POSITIONS)] for group in found]


def step_figures(shape: Workload, rejected: int, count: int, rounds: int, tuning: Tuning) -> tuple[dict, dict]:
    batch = windows(shape, count, rejected)
    model = adapted_model(shape)
    with torch.no_grad():
        difference = float((dense_logps(model, batch) - packed_logps(model, batch)).abs().max())
    assert difference < 1e-3, f"dense rows give other log-probabilities, by {difference:g}"
    sides: dict[str, Callable[[], None]] = {
        "dense": DenseStep(adapted_model(shape), batch),
        "today": Step(adapted_model(shape), packed_logps, batch),
    }
    if rejected == 1:
        make = build("trl_cached", shape, batch)
        sides["trl_cached"] = make(tuning.of("trl", make, max(map(len, batch.prompts)) + shape.title_tokens[1]))
    times = measure(sides, rounds)
    names = {"today": f"step_dense_vs_today_k{rejected}", "trl_cached": f"step_dense_vs_trl_k{rejected}"}
    found = {names[side]: ratio(times[side], times["dense"], PROMISES.get(names[side])) for side in list(times)[1:]}
    tokens = [pack(rows, PAD).tokens for rows in (dense_rows(batch), plain_rows(batch))]
    details = {"windows": count, "tokens_dense_today": tokens, "largest_difference": difference}
    return found, {**details, "seconds": harness.seconds(times)}


def plain_rows(batch: Examples) -> list[EncodedRow]:
    return [
        EncodedRow(EncodedPrompt(list(prompt)), answers)
        for prompt, answers in zip(batch.prompts, batch.responses, strict=True)
    ]


def reject_figures(shape: Workload, count: int, rounds: int) -> tuple[dict, dict]:
    """Scoring of CANDIDATES at each position, as many rows a pass as hold about 4,096 columns."""
    batch = windows(shape, count, CANDIDATES - 1)
    module = PackedPolicy(adapted_model(shape)).eval()

    def run(rows: list[EncodedRow], at_once: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(rows), at_once):
                module(pack(rows[start : start + at_once], PAD))

    def at_once(rows: list[EncodedRow]) -> int:
        return max(1, 4096 // max(sum(row.shape) for row in rows))

    both = {"dense": dense_rows(batch), "today": plain_rows(batch)}
    times = measure({name: partial(run, rows, at_once(rows)) for name, rows in both.items()}, rounds)
    return {"reject_dense_vs_today": ratio(times["today"], times["dense"])}, {"seconds": harness.seconds(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="of a step")
    parser.add_argument("--model", choices=["ISSUE", "QUICKSTART", "TINY"], default="ISSUE", help="TINY: does it run?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the result")
    given = parser.parse_args()
    harness.need("trl", "datasets")
    harness.pin_threads()
    shape: Workload = getattr(workload, given.model)
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {"workload": vars(shape), "positions": POSITIONS}
    tuning = Tuning(5_000)
    for rejected in (1, 4):
        found, details[f"k{rejected}"] = step_figures(shape, rejected, given.windows, given.rounds, tuning)
        figures |= found
    found, details["reject"] = reject_figures(shape, given.windows, given.rounds)
    suffix = "" if given.model == "ISSUE" else f"_{given.model.lower()}"
    harness.write(f"step_dense{suffix}", {f"{n}{suffix}": f for n, f in (figures | found).items()}, details, given.out)


if __name__ == "__main__":
    main()
