"""Rejected samples with their reference log-probabilities, made by Ray Data actors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.rejection import RejectionSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.data.choice import choose
from rosepo_ray.data.dense import PairWindows
from rosepo_ray.data.protocol.seen import with_exclusions
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.storage import tables

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RejectResult:
    pairs: dict[str, int]
    """Rows by split."""
    passed_over: int
    """Rows for which nothing could be rejected."""
    strategies: dict[str, int]
    """Rejected items by the strategy that picked them."""


@stage(needs=("data", "sft"), single=("data.history", "align.dense"))
def reject(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    history: int,
    dense: bool,
    rejection: RejectionSettings,
    scoring: ScoringSettings,
    cluster: ClusterSettings,
) -> RejectResult:
    """Make rejected samples for training examples, or a hashed subset of them, and for some validation ones: `pairs`.

    Examples and exclusions are read part by part (they are partitioned by user alike) and never all at once. Units that
    a killed run had stored are kept.
    """
    from rosepo_ray.on_ray import scoring as units

    limits = {"train": rejection.examples, "validation": rejection.validation_examples}
    choice = choose(inputs["data"], limits, seed, "pairs", PairWindows(history, seed) if dense else None)
    planned = units.plan(inputs["data"], choice)
    examples, taken = (tables.parts(inputs["data"], name) for name in ("examples", "taken"))

    def read(unit: units.Unit) -> pa.Table:
        return with_exclusions(
            choice.rows(examples[unit.part])[unit.start : unit.stop], tables.read_part(taken[unit.part], "taken")
        )

    arguments = (inputs["data"], inputs["sft"], rejection, seed, scoring, "cuda" if cluster.use_gpu else "cpu")
    rows = units.complete(cluster, "reject", planned, read, rejector, arguments, "pairs", lambda unit: out)
    return _counted(out, rows)


def _counted(out: str, rows: int) -> RejectResult:
    made = tables.read(out, "pairs", ["split", "strategy"])
    pairs = made.filter(pc.greater(pc.list_value_length(made["strategy"]), 0))
    counts = {"train": 0, "validation": 0} | _count(pairs["split"])
    passed_over = made.num_rows - pairs.num_rows
    if not counts["train"] or not counts["validation"]:
        raise BadInput(
            f"there are {counts['train']} training and {counts['validation']} validation pairs, and {passed_over} rows "
            "have no item that could be rejected; give more data, or another rejection.strategy"
        )
    if made.num_rows != rows:
        raise RosepoError(f"{out} holds {made.num_rows} pairs of {rows} examples; remove this folder and run again")
    if passed_over:
        LOGGER.warning("%d of %d rows are passed over: no item is left that could be rejected", passed_over, rows)
    return RejectResult(counts, passed_over, _count(pc.list_flatten(made["strategy"])))


def _count(values: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def rejector(
    data: str, sft: str, rejection: RejectionSettings, seed: int, limits: ScoringSettings, device: str
) -> Callable[[pa.Table, str], pa.Table]:
    """What an actor holds: the SFT policy and the strategy."""
    from rosepo_ray.catalogue.items import Catalogue
    from rosepo_ray.policy import store
    from rosepo_ray.programs.reject import Rejector

    catalogue = Catalogue.from_table(tables.read(data, "items"))
    strategy = rejection.strategy.build(catalogue)
    with storage.local_copy(storage.join(sft, "model")) as folder:
        policy = store.load(folder, device)
    made = Rejector(policy, strategy, catalogue, rejection.k, seed, limits)
    return lambda rows, key: tables.from_rows("pairs", made.pairs(rows.to_pylist()))
