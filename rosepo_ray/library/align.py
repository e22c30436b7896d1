"""The method in one process, without Ray: SFT, oracle, rejected samples, alignment; the stages' own functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from rosepo_ray.config.problems import explain
from rosepo_ray.data.choice import choose
from rosepo_ray.data.dense import PairWindows, together
from rosepo_ray.data.protocol.seen import with_exclusions
from rosepo_ray.errors import BadInput
from rosepo_ray.library import oracle as oracles
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.library.oracle import OnStep
from rosepo_ray.library.policy import Policy
from rosepo_ray.library.settings import MethodSettings
from rosepo_ray.oracle.protocol import Oracle
from rosepo_ray.policy import store
from rosepo_ray.policy.checks.titles import title_lengths
from rosepo_ray.programs.align import AlignProgram
from rosepo_ray.programs.reject import Rejector
from rosepo_ray.programs.sft import ExampleRows, SftProgram, WindowRows
from rosepo_ray.programs.validation import examples_to_look_at, pairs_to_look_at, watch
from rosepo_ray.training import in_process
from rosepo_ray.training.windows import Sequences, Windows
from rosepo_ray.training.world import World

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Aligned:
    """What alignment leaves."""

    policy: Policy
    """Aligned."""
    sft: Policy
    """The policy before alignment: the reference of the pairs."""
    oracle: Oracle | None
    """Calibrated; None where the kind of oracle asks nobody."""
    pairs: list[dict[str, Any]]
    """What was trained on: rows of the table `pairs`, with `epsilon`."""


def _quiet(what: str, step: int, figures: Mapping[str, float]) -> None:
    pass


def align(dataset: Dataset, *, on_step: OnStep = _quiet, **settings: Any) -> Aligned:
    """Train a policy on `dataset` and align it with the oracle's smoothing.

    `settings` are a recipe's: `seed`, and the sections `policy`, `prompt`, `sft`, `oracle`, `rejection`, `align` and
    `scoring`, as dictionaries or settings objects; what is left out has the pipeline's defaults. Everything is held in
    memory and trained on the CPU; for more, `rosepo align`. Raises BadInput where settings or data cannot be used.
    """
    chosen = read_settings(settings)
    catalogue = dataset.catalogue
    policy = Policy.of(
        store.build(chosen.policy, chosen.prompt, list(catalogue.titles), list(catalogue.popularity), chosen.seed)
    )
    title_lengths(policy.prompter, catalogue.titles, generate=False)  # refuses titles that it cannot write
    _fine_tune(policy, dataset, chosen, on_step)
    sft = Policy.of(policy)
    policy = _copy(sft)
    judge = oracles.make(dataset, chosen.oracle, chosen.seed, on_step)
    train, validation = (_pairs(sft, dataset, chosen, split) for split in ("train", "validation"))
    if judge is not None:
        judge = oracles.calibrated(judge, validation)
    pairs = oracles.told(chosen.oracle, judge, train)
    rows = {pair["example_id"]: pair for pair in pairs}
    looked_at = pairs_to_look_at(validation, chosen.align.validation)
    looks = watch(policy, catalogue, looked_at, chosen.align.validation, chosen.scoring, World(), from_start=True)
    units = together(pa.Table.from_pylist(pairs)) if chosen.align.dense else [[row] for row in rows]
    program = AlignProgram(
        policy,
        catalogue.requests,
        units,
        lambda ids: (rows[row] for row in ids),
        chosen.align,
        chosen.seed,
        World(),
        looks,
    )
    steps = chosen.align.steps(len(units))
    in_process.train(program, chosen.align, steps, lambda step, figures: on_step("align", step, figures))
    return Aligned(policy, sft, judge, pairs)


def read_settings(settings: Mapping[str, Any]) -> MethodSettings:
    """Raises BadInput where they cannot be used."""
    try:
        return MethodSettings.model_validate(dict(settings))
    except ValidationError as error:
        raise BadInput(explain(error, lambda name: "")) from error


def _fine_tune(policy: Policy, dataset: Dataset, chosen: MethodSettings, on_step: OnStep) -> None:
    catalogue = dataset.catalogue
    rows: WindowRows | ExampleRows
    if chosen.sft.dense:
        sequences = Sequences.from_table(dataset.sequences, catalogue.item_ids)
        windows = Windows(sequences, dataset.history, chosen.seed)
        rows = WindowRows(windows, catalogue.requests, catalogue.item_ids)
    else:
        rows = ExampleRows(dataset.split("train"), catalogue.requests)
    looked_at = examples_to_look_at(dataset.examples, chosen.sft.validation, dataset.seed)
    looks = watch(policy, catalogue, looked_at, chosen.sft.validation, chosen.scoring, World())
    program = SftProgram(policy, rows, chosen.sft, chosen.seed, World(), looks, chosen.sft.dropout)
    in_process.train(program, chosen.sft, chosen.sft.steps, lambda step, figures: on_step("sft", step, figures))


def _copy(policy: Policy) -> Policy:
    return Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.settings, policy.prompt, policy.items)


def _pairs(sft: Policy, dataset: Dataset, chosen: MethodSettings, split: str) -> list[dict[str, Any]]:
    """Rows of one split with what is rejected; raises BadInput where there is none."""
    rejection = chosen.rejection
    limits = {"train": rejection.examples, "validation": rejection.validation_examples}
    windows = PairWindows(dataset.history, chosen.seed) if chosen.align.dense else None
    choice = choose(dataset.examples, {split: limits[split]}, chosen.seed, "pairs", windows)
    rows = with_exclusions(choice.of(dataset.examples), dataset.taken).to_pylist()
    strategy = rejection.strategy.build(dataset.catalogue)
    made = Rejector(sft, strategy, dataset.catalogue, rejection.k, chosen.seed, chosen.scoring)
    found = [
        pair
        for start in range(0, len(rows), _ROWS_AT_ONCE)
        for pair in made.pairs(rows[start : start + _ROWS_AT_ONCE])
        if pair["rejected_text"]
    ]
    if not found:
        raise BadInput(
            f"none of the {len(rows)} {split} rows has an item that could be rejected; give more data, or another "
            "rejection.strategy"
        )
    return found
