"""The oracle's temperature and how far it can be trusted, measured on validation pairs of the same strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.oracle.protocol import ScoringOracle
from rosepo_ray.storage import tables

_COLUMNS = ["user_id", "split", "history", "chosen", "rejected"]


@dataclass(frozen=True)
class CalibrateResult:
    version: str
    """Of the oracle with its temperature."""
    temperature: float
    ece: float
    pair_accuracy: float
    pairs: int
    epsilon: dict[str, float]
    """Mean over the pairs of a split. The oracle has seen the training pairs, so it may be too sure of them."""


@stage(needs=("oracle", "reject"), wanted=lambda oracle: oracle.scores, rewrites=True)
def calibrate(inputs: Inputs, out: str, *, oracle: ScoringOracle) -> CalibrateResult:
    """Fit the oracle's temperature on validation pairs and save the oracle with it in `oracle/`."""
    from rosepo_ray.oracle import calibration, smoothing, store

    scorer = store.load(storage.join(inputs["oracle"], "oracle"))
    differences = {
        split: _differences(scorer, tables.read(inputs["reject"], "pairs", _COLUMNS, split=split))
        for split in ("train", "validation")
    }
    temperature = calibration.fit_temperature(differences["validation"])
    means = {
        split: float(smoothing.epsilon(values, temperature, oracle.epsilon_max).mean())
        for split, values in differences.items()
    }
    report: dict[str, Any] = calibration.report(differences["validation"], temperature)
    version = store.save(scorer.with_temperature(temperature), storage.join(out, "oracle"))
    return CalibrateResult(version=version, epsilon=means, **report)


def _differences(oracle: Any, pairs: pa.Table) -> np.ndarray:
    """s_w - s_l of every (chosen, rejected) of the pairs, [sum of K]; texts that are no item have no score."""
    from rosepo_ray.oracle import judging

    request = judging.as_request(*[pairs[name].to_pylist() for name in ("user_id", "history", "chosen", "rejected")])
    flat = np.concatenate(judging.differences(oracle, request))
    return np.asarray(flat[~np.isnan(flat)])
