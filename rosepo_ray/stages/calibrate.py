"""The oracle's temperature and how far it can be trusted, measured on validation pairs of the same strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.errors import BadInput
from rosepo_ray.oracle.protocol import Oracle, ScoringOracle
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.oracle.judging import ItemDifferences

_COLUMNS = ["user_id", "split", "history", "chosen", "rejected"]


@dataclass(frozen=True)
class CalibrateResult:
    version: str
    """Of the oracle with its temperature."""
    temperature: float
    ece: float
    pair_accuracy: float
    pairs: int
    """Validation pairs whose rejected text is an item."""
    epsilon: dict[str, float]
    """Mean over the rejected texts of a split, 0 for one that is no item. The oracle has seen the training pairs, so it
    may be too sure of them."""


@stage(needs=("oracle", "reject"), wanted=lambda oracle: oracle.scores, rewrites=True)
def calibrate(inputs: Inputs, out: str, *, oracle: ScoringOracle) -> CalibrateResult:
    """Fit the oracle's temperature on validation pairs and save the oracle with it in `oracle/`."""
    from rosepo_ray.oracle import calibration, smoothing, store

    scorer = store.load(storage.join(inputs["oracle"], "oracle"))
    differences = {
        split: _differences(scorer, tables.read(inputs["reject"], "pairs", _COLUMNS, split=split))
        for split in ("train", "validation")
    }
    known = differences["validation"].items
    if not len(known):
        raise BadInput(
            f"none of the {differences['validation'].texts} rejected texts of the validation pairs is an item, so "
            "there is nothing to calibrate the oracle on; train SFT longer, mix in a strategy that picks items "
            "(rejection.strategy.type mix), or let no oracle judge (oracle.type constant)"
        )
    temperature = calibration.fit_temperature(known)
    means = {
        split: float(smoothing.epsilon(found.items, temperature, oracle.epsilon_max).sum() / found.texts)
        for split, found in differences.items()
    }
    report: dict[str, Any] = calibration.report(known, temperature)
    version = store.save(scorer.with_temperature(temperature), storage.join(out, "oracle"))
    return CalibrateResult(version=version, epsilon=means, **report)


def _differences(oracle: Oracle, pairs: pa.Table) -> ItemDifferences:
    from rosepo_ray.oracle import judging

    columns = (pairs[name].to_pylist() for name in ("user_id", "history", "chosen", "rejected"))
    return judging.item_differences(oracle, judging.as_request(*columns))
