"""The registration broken off between any two of its steps: the next start finds what is there and completes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rosepo_ray.registry import packaging, server, tracking
from rosepo_ray.registry.tracking import Tracker
from rosepo_ray.run.sources import build
from rosepo_ray.stages.register import Record, RegisterResult, register
from tests import finished_run


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the project catches it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished stages, and beside them one database for the file."""
    root = tmp_path_factory.mktemp("killed")
    finished_run.make(folders(root))
    return root


def folders(root: Path) -> dict[str, str]:
    return {stage: f"{root}/{stage}" for stage in ("data", "sft", "align", "evaluate")}


def start(root: Path, name: str) -> RegisterResult:
    """The registration as the job calls it, in the run directory `name`, its experiment and model its own."""
    settings = build({"mlflow": {"experiment": name, "model": f"model-{name}"}})
    record = Record(Tracker(settings.mlflow, f"{root}/{name}"), settings.model_dump(), folders(root))
    return register(
        record, data=settings.data, evaluation=settings.evaluation, scoring=settings.scoring, mlflow=settings.mlflow
    )


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
    client = server.connect(f"sqlite:///{root / 'mlflow.db'}")
    client.delete_registered_model_alias(f"model-{point}", "challenger")
    assert start(root, point) == done
    assert client.get_registered_model(f"model-{point}").aliases == {}, "a finished registration takes no alias back"


def check(root: Path, name: str, done: RegisterResult) -> None:
    """One finished run of each name, one version, with its alias, its tags and the evidence of its evaluation."""
    client = server.connect(f"sqlite:///{root / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted([name, "sft", "align", "evaluate"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_id == done.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if run is not parent} == {done.run_id}
    (version,) = client.search_model_versions(f"name = 'model-{name}'")
    assert (str(version.version), done.version) == ("1", "1")
    aliases = client.get_registered_model(f"model-{name}").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"challenger": "1"}
    (logged,) = client.search_logged_models([parent.info.experiment_id])
    assert logged.model_id in version.source
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
    assert second.run_id != first.run_id
    assert (first.version, second.version) == ("1", "2")


def test_a_registration_that_fails_again_and_again_leaves_one_model(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the registry refuses, once the upload breaks off: then it succeeds with the model that is there."""
    import mlflow

    client = server.connect(f"sqlite:///{root / 'mlflow.db'}")

    def models() -> list[Any]:
        experiment = client.get_experiment_by_name("failing").experiment_id
        return list(client.search_logged_models([experiment]))

    def stored() -> list[str]:
        return [folder.name for folder in (root / "mlartifacts" / "models").glob("*")]

    before = set(stored())

    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_model_artifacts", refused)
        with pytest.raises(RuntimeError):
            start(root, "failing")
    assert models() == []
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", refused)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                start(root, "failing")
    (model,) = models()
    assert start(root, "failing").version == "1"
    (kept,) = models()
    assert kept.model_id == model.model_id
    assert set(stored()) - before == {model.model_id}, "nor are the files of another left behind"
