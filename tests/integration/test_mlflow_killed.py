"""The registration broken off between any two of its steps: the next start finds what is there and completes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.registry import packaging, tracking
from rosepo_ray.run.settings import Settings
from rosepo_ray.stages.register import register
from rosepo_ray.storage import done, tables

ITEMS = {"t": 10, "p": 20, "q": 6}
ROW = {"example_id": "u:1", "user_id": "u"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the project catches it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished stages, and beside them one database for the file."""
    from rosepo_ray.policy import store

    root = tmp_path_factory.mktemp("killed")
    policy = store.build(
        ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280), PromptSettings(), list(ITEMS), [1, 1, 1], 1
    )
    store.save(policy, root / "align" / "model")
    data, evaluation = str(root / "data"), str(root / "evaluate")
    items = [{"item_id": i, "title": i, "genres": None, "popularity": n} for i, n in ITEMS.items()]
    example = {**ROW, "history": ["q"], "target": "t", "candidates": ["p", "q", "t"], "split": "test"}
    prediction = {**ROW, "ranked": ["t", "p", "q"], "scores": [0.0, -1.0, -2.0], "generated": None, "outcome": None}
    tables.write_part(data, "items", 0, tables.from_rows("items", items))
    tables.write_part(data, "examples", 0, tables.from_rows("examples", [example]))
    found = tables.from_rows("predictions", [prediction])
    tables.write_part(f"{evaluation}/predictions/aligned", "predictions", 0, found)
    storage.write_json(f"{evaluation}/evaluation.json", {})
    for stage in ("sft", "align"):
        storage.write_bytes(f"{root}/{stage}/metrics.jsonl", b'{"step": 1, "loss": 0.5}\n')
    done.write(data, {"dataset": "d", "protocol": "p"}, 1.0)
    done.write(evaluation, {"models": {"aligned": {"hr@1": {"value": 1.0}}}}, 1.0)
    return root


def start(root: Path, name: str) -> dict[str, Any]:
    """The register stage as the job calls it, in the run directory `name` with an experiment and a model of its own."""
    settings = Settings(mlflow=MlflowSettings(experiment=name, model=f"model-{name}"))
    folders = {stage: f"{root}/{stage}" for stage in ("data", "sft", "align", "evaluate")}
    sections = {name: getattr(settings, name) for name in ("data", "evaluation", "scoring", "mlflow")}
    return asdict(register(folders, f"{root}/{name}", settings.model_dump(), **sections))


def before(patch: pytest.MonkeyPatch, owner: Any, step: str, when: Any = lambda *_: True) -> None:
    """The start is killed where it is about to take `step` for the first time that `when` holds of its arguments."""
    real = getattr(owner, step)

    def killed(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise Killed
        return real(*arguments, **named)

    patch.setattr(owner, step, killed)


@pytest.mark.parametrize("point", ["parent", "nested", "logged", "version", "alias"])
def test_a_registration_killed_at_any_step_is_completed_once(
    root: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    with monkeypatch.context() as patch:
        match point:
            case "parent":  # the run is made, its id is kept nowhere
                before(patch, tracking.Tracker, "_write_state", lambda tracker: "rosepo" in tracker._state["runs"])
            case "nested":
                before(patch, tracking.Tracker, "_write_state", lambda tracker: "align" in tracker._state["runs"])
            case "logged":
                before(patch, packaging, "register")
            case "version":  # it is registered, and neither named nor kept
                before(patch, mlflow.MlflowClient, "set_registered_model_alias")
            case "alias":
                before(patch, tracking.Tracker, "remember_model")
        with pytest.raises(Killed):
            start(root, point)
    done = start(root, point)
    check(root, point, done)
    client = tracking.connect(f"sqlite:///{root / 'mlflow.db'}")
    client.delete_registered_model_alias(f"model-{point}", "challenger")
    assert start(root, point) == done
    assert client.get_registered_model(f"model-{point}").aliases == {}, "a finished registration takes no alias back"


def check(root: Path, name: str, done: dict[str, Any]) -> None:
    """One finished run of each name, one version, with its alias, its tags and the evidence of its evaluation."""
    client = tracking.connect(f"sqlite:///{root / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted([name, "sft", "align", "evaluate"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_id == done["run_id"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if run is not parent} == {done["run_id"]}
    (version,) = client.search_model_versions(f"name = 'model-{name}'")
    assert (str(version.version), done["version"]) == ("1", "1")
    aliases = client.get_registered_model(f"model-{name}").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"challenger": "1"}
    assert version.tags["rosepo.policy"] == packaging.policy_hash(f"{root}/align/model")
    state = tracking.read_state(f"{root}/{name}")
    assert state is not None
    assert state["model"] == {"name": f"model-{name}", "version": "1"}
    (align,) = [run for run in runs if run.info.run_name == "align"]
    assert version.run_id == align.info.run_id
    assert {file.path for file in client.list_artifacts(version.run_id, "evidence")} == {
        f"evidence/{table}" for table in ("predictions", "examples", "items")
    }


def test_a_run_directory_made_anew_under_the_same_path_is_another_run(root: Path) -> None:
    import shutil

    first = start(root, "again")
    shutil.rmtree(root / "again")
    second = start(root, "again")
    assert second["run_id"] != first["run_id"]
    assert (first["version"], second["version"]) == ("1", "2")
