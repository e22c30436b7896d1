"""Alignment on whole windows, judged while it trains, and in rounds, on a local cluster: the pairs, the curves, what is
kept; and two workers with accumulation do as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.data.dense import together
from rosepo_ray.policy import store
from rosepo_ray.policy.scoring import score
from rosepo_ray.programs.validation import PolicyJudge
from rosepo_ray.run import pipeline
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.stages.align import _validation_pairs, align
from rosepo_ray.storage import metrics, tables
from rosepo_ray.training.world import World
from tests.synthetic import tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
LOOKS = {"every": 3, "examples": 20}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    sections: dict[str, Any] = {
        "rejection": {"k": 2, "examples": 100, "strategy": {"type": "uniform"}},
        "sft": {"steps": 30, "batch": 16, "lr": 5e-3, "validation": {"every": 10, "examples": 25}},
        "align": {"dense": True, "batch": 4, "validation": {**LOOKS, "metric": "loss", "texts": 0}},
        "evaluation": {"draws": 200, "generate": False, "catalogue_examples": 0},
    }
    return build(tiny(tmp_path_factory.mktemp("log"), **sections))


@pytest.fixture(scope="module")
def finished(settings: Settings, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    run_dir = str(tmp_path_factory.mktemp("runs") / "one")
    return {"run_dir": run_dir, **pipeline.run(settings, run_dir)}


def test_pairs_are_whole_windows_with_the_references_of_rows_alone(
    settings: Settings, finished: dict[str, Any]
) -> None:
    found = tables.read(finished["reject"].folder, "pairs", split="train")
    units = together(found)
    assert max(map(len, units)) > 1
    assert 100 <= found.num_rows < 100 + settings.data.history
    assert finished["align"].info["pairs"] == found.num_rows
    items = tables.read(finished["data"].folder, "items")
    catalogue = Catalogue.from_table(items)
    with storage.local_copy(storage.join(finished["sft"].folder, "model")) as folder:
        policy = store.load(folder)
    for row in found.to_pylist()[:30]:
        request = catalogue.requests.of_row(row, [catalogue.title_of(row["chosen"]), *row["rejected_text"]])
        alone = score(policy, [request], 1, 4096)[0].tolist()
        assert [row["ref_chosen_logp"], *row["ref_rejected_logps"]] == pytest.approx(alone, abs=1e-3)


def test_the_curves_show_the_looks_and_the_best_weights_are_kept(settings: Settings, finished: dict[str, Any]) -> None:
    steps = finished["align"].info["steps"]
    rows = {row["step"]: row for row in metrics.read(finished["align"].folder)}
    looked = {step: row for step, row in rows.items() if "val_loss" in row}
    assert sorted(looked) == sorted({0, *range(3, steps, 3), steps})
    assert {
        "val_hr@1",
        "val_ndcg@10",
        "val_margin",
        "val_pair_accuracy",
        "val_chosen_logp",
        "val_rejected_logp",
    } <= set(looked[0])
    assert looked[0]["val_margin"] == pytest.approx(0, abs=1e-3)  # the policy is its own reference then
    assert "val_texts" not in looked[0]
    sft = {row["step"]: row for row in metrics.read(finished["sft"].folder)}
    assert [step for step, row in sft.items() if "val_texts" in row] == [10, 20, 30]
    # What is saved is the policy of the best look: its loss on the same rows is that look's.
    catalogue = Catalogue.from_table(tables.read(finished["data"].folder, "items"))
    with storage.local_copy(storage.join(finished["align"].folder, "model")) as folder:
        policy = store.load(folder)
    looked_at = _validation_pairs(finished["reject"].folder, settings.align.validation)
    kept = PolicyJudge(policy, catalogue, looked_at, settings.scoring, World(), write=False)()
    assert kept["loss"] == pytest.approx(min(row["val_loss"] for row in looked.values()), abs=1e-3)
    assert not storage.exists(storage.join(finished["align"].folder, "best"))


def test_two_workers_with_accumulation_do_as_one_does(
    settings: Settings, finished: dict[str, Any], tmp_path: Path
) -> None:
    two = settings.model_copy(
        update={
            "align": settings.align.model_copy(update={"micro_batch": 1}),
            "cluster": settings.cluster.model_copy(update={"workers": 2}),
        }
    )
    inputs = {name: finished[name].folder for name in align.needs}
    result = align.start(two, inputs, str(tmp_path / "two"))
    one = metrics.read(finished["align"].folder)
    other = metrics.read(str(tmp_path / "two"))
    assert result["pairs"] == finished["align"].info["pairs"]
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for first, second in zip(one, other, strict=True):
        never = {"time", "wait_share", "tokens_per_second", "step_seconds", "val_seconds"}
        if first["step"] <= 1:  # every margin is 0 but for rounding
            never = {*never, "val_pair_accuracy", "pair_accuracy"}
        for name in first.keys() - never:
            assert first[name] == pytest.approx(second[name], rel=2e-3, abs=2e-3), name


def test_patience_ends_a_fit_early(settings: Settings, finished: dict[str, Any], tmp_path: Path) -> None:
    wild = settings.align.model_copy(
        update={
            "lr": 0.3,
            "epochs": 4,
            "validation": settings.align.validation.model_copy(update={"every": 1, "patience": 3}),
        }
    )
    inputs = {name: finished[name].folder for name in align.needs}
    result = align.start(settings.model_copy(update={"align": wild}), inputs, str(tmp_path / "early"))
    rows = metrics.read(str(tmp_path / "early"))
    losses = [row["val_loss"] for row in rows]
    best = losses.index(min(losses))
    units = together(tables.read(finished["reject"].folder, "pairs", split="train"))
    assert result["steps"] == rows[-1]["step"] == best + 3 < wild.steps(len(units))


def test_a_second_round_takes_the_first_and_starts_from_what_it_aligned(
    settings: Settings, finished: dict[str, Any]
) -> None:
    two = settings.model_copy(update={"align": settings.align.model_copy(update={"rounds": 2})})
    found = pipeline.run(two, f"{storage.parent(finished['run_dir'])}/two")
    taken = {name for name, result in found.items() if result.skipped}
    assert taken == {"data", "sft", "oracle", "reject_1", "calibrate_1", "align_1"}
    for name in ("reject", "calibrate", "align"):
        assert found[f"{name}_1"].folder == finished[name].folder
    first, second = (tables.read(found[name].folder, "pairs", split="train") for name in ("reject_1", "reject"))
    assert first["rejected"].to_pylist() != second["rejected"].to_pylist()
    # The second round's reference is the policy that the first has aligned.
    catalogue = Catalogue.from_table(tables.read(found["data"].folder, "items"))
    with storage.local_copy(storage.join(found["align_1"].folder, "model")) as folder:
        policy = store.load(folder)
    row = second.to_pylist()[0]
    request = catalogue.requests.of_row(row, [catalogue.title_of(row["chosen"]), *row["rejected_text"]])
    alone = score(policy, [request], 1, 4096)[0].tolist()
    assert [row["ref_chosen_logp"], *row["ref_rejected_logps"]] == pytest.approx(alone, abs=1e-3)
    assert found["sft_longer"].info["steps"] == 2 * found["align"].info["steps"]
    assert set(found["evaluate"].info["models"]) == {"popular", "oracle", "sft", "sft_longer", "aligned"}
