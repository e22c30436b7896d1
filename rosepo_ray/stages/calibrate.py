"""The oracle's temperature and how far it can be trusted, measured on validation pairs of the same strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.storage import tables

_COLUMNS = ["user_id", "split", "history", "chosen", "rejected"]


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Fit T, save the oracle with it in `oracle/`, report ECE, pair accuracy and mean epsilon.

    The mean epsilon is given for training and validation pairs: the oracle has seen the former, so it may be too
    sure of them.
    """
    from rosepo_ray.oracle import calibration, smoothing, store

    oracle = store.load(storage.join(inputs["oracle"], "oracle"))
    differences = {
        split: _differences(oracle, tables.read(inputs["reject"], "pairs", _COLUMNS, split=split))
        for split in ("train", "validation")
    }
    judged = differences["validation"]
    temperature = calibration.fit_temperature(judged)
    version = store.save(oracle.with_temperature(temperature), storage.join(out, "oracle"))
    bound = settings.align.epsilon_max
    return {
        "version": version,
        **calibration.report(judged, temperature),
        "epsilon": {
            split: float(smoothing.epsilon(values, temperature, bound).mean()) for split, values in differences.items()
        },
    }


def _differences(oracle: Any, pairs: pa.Table) -> np.ndarray:
    """s_w - s_l of every (chosen, rejected) of the pairs, [sum of K]; texts that are no item have no score."""
    from rosepo_ray.oracle import judging

    request = judging.as_request(*[pairs[name].to_pylist() for name in ("user_id", "history", "chosen", "rejected")])
    values, _ = judging.differences(oracle, request)
    flat = np.concatenate(values)
    return np.asarray(flat[~np.isnan(flat)])
