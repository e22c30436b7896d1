"""Texts that the policy writes as rejected samples, from SFT through Ray to the aligned policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rosepo_ray.run import pipeline
from rosepo_ray.run.sources import build
from rosepo_ray.storage import metrics, tables
from tests.synthetic import tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    """A little SFT: some texts are items, some are none; one try each, so that some rows have no wrong text."""
    strategy = {"type": "generated", "tries": 1, "temperature": 0.7}
    rejection = {"k": 2, "strategy": strategy}
    settings = build(tiny(tmp_path_factory.mktemp("log"), rejection=rejection, sft={"steps": 90}))
    run_dir = str(tmp_path_factory.mktemp("run"))
    stages = ("data", "sft", "oracle", "reject", "calibrate", "align")
    found = {name: pipeline.run(settings, run_dir, only=name)[name] for name in stages}
    return {name: (step.folder, step.info) for name, step in found.items()}


def test_pairs_hold_items_and_texts_that_are_none(finished: dict[str, Any]) -> None:
    folder, info = finished["reject"]
    pairs = tables.read(folder, "pairs").to_pylist()
    items = tables.read(finished["data"][0], "items")
    title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    picks = [(row, *pick) for row in pairs for pick in zip(row["rejected"], row["rejected_text"], strict=True)]
    assert {item is None for _, item, _ in picks} == {True, False}
    for row, item, text in picks:
        assert text not in {title_of[own] for own in [*row["history"], row["chosen"]]}
        assert text == title_of[item] if item is not None else text not in title_of.values()
    assert info["strategies"] == {"generated": len(picks)}
    assert info["passed_over"] == sum(not row["rejected"] for row in pairs)
    assert info["pairs"]["train"] + info["pairs"]["validation"] + info["passed_over"] == len(pairs)


def test_only_pairs_with_a_rejected_text_are_trained_on_and_texts_have_epsilon_0(finished: dict[str, Any]) -> None:
    pairs = {row["example_id"]: row for row in tables.read(finished["reject"][0], "pairs", split="train").to_pylist()}
    smoothing = tables.read(finished["align"][0], "smoothing").to_pylist()
    assert {row["example_id"] for row in smoothing} == {name for name, row in pairs.items() if row["rejected"]}
    for row in smoothing:
        assert row["rejected"] == pairs[row["example_id"]]["rejected"]
        assert all(value == 0 for item, value in zip(row["rejected"], row["epsilon"], strict=True) if item is None)
    every = np.concatenate([row["epsilon"] for row in smoothing])
    assert every.max() > 0
    assert finished["align"][1]["mean_epsilon"] == pytest.approx(every.mean(), abs=1e-6)
    # The oracle that alignment asks is the calibrated one, over the same pairs.
    assert finished["calibrate"][1]["epsilon"]["train"] == pytest.approx(every.mean(), abs=1e-5)


def test_alignment_starts_at_the_stored_reference(finished: dict[str, Any]) -> None:
    rows = metrics.read(finished["align"][0])
    assert len(rows) == -(-finished["reject"][1]["pairs"]["train"] // 16)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
