"""Calibration of an oracle on pairs whose rejected texts may be no item."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rosepo_ray.errors import BadInput
from rosepo_ray.oracle import store
from rosepo_ray.oracle.popularity import Popularity, PopularityScorer
from rosepo_ray.stages.calibrate import CalibrateResult, calibrate
from rosepo_ray.storage import tables


def pair(number: int, split: str, chosen: str, rejected: list[str | None]) -> dict:
    return {
        "example_id": f"u{number}:1",
        "user_id": f"u{number}",
        "split": split,
        "history": ["a"],
        "candidates": ["a", "b", "c"],
        "chosen": chosen,
        "rejected": rejected,
        "rejected_text": [item or "no item" for item in rejected],
        "strategy": ["generated"] * len(rejected),
        "ref_chosen_logp": -1.0,
        "ref_rejected_logps": [-2.0] * len(rejected),
    }


def calibrated(folder: Path, *pairs: dict) -> CalibrateResult:
    store.save(PopularityScorer(("a", "b", "c"), (np.array([7, 3, 1]),), 1.0, seed=3), folder / "before" / "oracle")
    tables.write_part(str(folder / "pairs"), "pairs", 0, tables.from_rows("pairs", list(pairs)))
    inputs = {"oracle": str(folder / "before"), "reject": str(folder / "pairs")}
    result = calibrate.run(inputs, str(folder / "out"), oracle=Popularity())
    assert isinstance(result, CalibrateResult)
    return result


def test_texts_that_are_no_item_do_not_move_the_temperature_and_have_epsilon_0(tmp_path: Path) -> None:
    # Scores ln 8, ln 4, ln 2: d = ln 2, ln 2 and -ln 2. The likeliest T has P = 2/3 for ln 2: T = 1, where epsilon is
    # 1/3, 1/3 and 2/3, the last cut at 0.5; the fourth text has none. Training: one of ln 2 among three texts.
    found = calibrated(
        tmp_path,
        pair(1, "validation", "a", ["b", None]),
        pair(2, "validation", "b", ["c", "a"]),
        pair(3, "train", "a", [None, None]),
        pair(4, "train", "a", ["b"]),
        pair(5, "train", "a", []),
    )
    assert found.temperature == pytest.approx(1.0, abs=1e-4)
    assert found.pairs == 3
    assert found.pair_accuracy == pytest.approx(2 / 3)
    assert found.epsilon == pytest.approx({"validation": (1 / 3 + 1 / 3 + 0.5) / 4, "train": (1 / 3) / 3}, abs=1e-4)


def test_training_pairs_without_any_item_have_epsilon_0(tmp_path: Path) -> None:
    found = calibrated(tmp_path, pair(1, "validation", "a", ["b"]), pair(2, "train", "a", [None]))
    assert found.epsilon["train"] == 0
    assert not math.isnan(found.epsilon["validation"])


def test_validation_pairs_without_any_item_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none of the 3 rejected texts of the validation pairs is an item.*constant"):
        calibrated(tmp_path, pair(1, "validation", "a", [None, None]), pair(2, "validation", "a", [None]),
                   pair(3, "train", "a", ["b"]))  # fmt: skip
