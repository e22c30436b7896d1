"""Rounds of alignment: which stages a run has, what each reads, and what runs with more or fewer rounds share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosepo_ray import storage
from rosepo_ray.run import pipeline
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build


def planned(folder: Path, rounds: int, **sections: Any) -> dict[str, pipeline.Planned]:
    settings = build({"run": {"stages": str(folder / "stages")}, "align": {"rounds": rounds}, **sections})
    return {step.stage.name: step for step in pipeline.plan(settings, str(folder / f"run{rounds}"))}


def reads(steps: dict[str, pipeline.Planned], name: str) -> dict[str, str]:
    """For each stage that it needs: which one's folder it is given."""
    of_folder = {step.folder: other for other, step in steps.items()}
    return {need: of_folder[folder] for need, folder in steps[name].inputs.items()}


def test_one_round_is_the_pipeline_as_it_stands(tmp_path: Path) -> None:
    assert list(planned(tmp_path, 1)) == [stage.name for stage in pipeline.STAGES]


def test_a_round_makes_the_next_ones_samples_and_is_its_reference(tmp_path: Path) -> None:
    steps = planned(tmp_path, 3)
    names = [f"{kind}_{number}" for number in (1, 2) for kind in ("reject", "calibrate", "align")]
    assert [name for name in steps if name not in {stage.name for stage in pipeline.STAGES}] == names
    assert reads(steps, "reject_1") == {"data": "data", "sft": "sft"}
    assert reads(steps, "reject_2") == {"data": "data", "sft": "align_1"}
    assert reads(steps, "calibrate_2") == {"oracle": "oracle", "reject": "reject_2"}
    wanted = {"data": "data", "sft": "align_1", "reject": "reject_2", "calibrate": "calibrate_2"}
    assert reads(steps, "align_2") == wanted
    wanted = {"data": "data", "sft": "align_2", "reject": "reject", "calibrate": "calibrate"}
    assert reads(steps, "align") == wanted
    assert reads(steps, "sft_longer") == {"data": "data", "sft": "sft", "align": "align"}
    assert reads(steps, "evaluate")["aligned"] == "align"
    assert reads(steps, "evaluate")["sft"] == "sft"
    assert set(reads(steps, "evaluate").values()) == {"data", "calibrate", "sft", "align", "sft_longer"}


def test_runs_share_the_rounds_that_they_have_in_common(tmp_path: Path) -> None:
    one, three = planned(tmp_path, 1), planned(tmp_path, 3)
    for name in ("data", "sft", "oracle"):
        assert one[name].folder == three[name].folder
    for name in ("reject", "calibrate", "align"):
        assert one[name].folder == three[f"{name}_1"].folder
        folders = [three[f"{name}_1"].folder, three[f"{name}_2"].folder, three[name].folder]
        assert len(set(folders)) == 3
        assert {storage.name(storage.parent(folder)) for folder in folders} == {name}


def test_each_round_has_a_seed_of_its_own(tmp_path: Path) -> None:
    settings: Settings = build({"align": {"rounds": 2}})
    stages = {stage.name: stage for stage in pipeline.stages_of(settings)}
    first, second = (stages[name].values(settings) for name in ("reject_1", "reject"))
    assert first["seed"] == settings.seed != second["seed"]
    assert first["rejection"] == second["rejection"]
    assert "rounds" not in stages["align"].values(settings)["align"]


def test_without_an_oracle_to_calibrate_rounds_have_no_such_stage(tmp_path: Path) -> None:
    steps = planned(tmp_path, 2, oracle={"type": "constant"})
    assert not any(name.startswith("calibrate") for name in steps)
    assert reads(steps, "align") == {"data": "data", "sft": "align_1", "reject": "reject"}
