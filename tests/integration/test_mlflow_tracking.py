"""The MLflow record of a run directory, on a real sqlite database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.config import MlflowSettings, Settings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.registry.tracking import Tracker, tracking_uri


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the file: its first touch takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def run_dir(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return str(root / request.node.name)


def history(tracker: Tracker, run: str, metric: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(tracker.run(run), metric)
    return sorted((point.step, point.value) for point in points)


def test_a_second_start_continues_the_same_runs(root: Path, run_dir: str) -> None:
    first = Tracker(Settings(), run_dir)
    made = {name: first.run(name) for name in ("oracle", "sft", "align")}
    first.finish("sft")
    first.finish("rosepo", failed=True)
    again = Tracker(Settings(), run_dir)
    assert {name: again.run(name) for name in made} == made
    assert again.run_id == first.run_id
    parent = again.client.get_run(again.run_id)
    assert parent.info.status == "RUNNING"
    for run in made.values():
        assert again.client.get_run(run).data.tags["mlflow.parentRunId"] == first.run_id
    assert (root / "mlflow.db").is_file()
    assert parent.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    again.finish("sft")
    assert again.client.get_run(made["sft"]).info.status == "FINISHED"


def test_a_deleted_run_is_made_anew(run_dir: str) -> None:
    tracker = Tracker(Settings(), run_dir)
    lost = tracker.run("sft")
    tracker.client.delete_run(lost)
    fresh = Tracker(Settings(), run_dir).run("sft")
    assert fresh != lost


def test_metrics_by_step_once_however_often_they_are_logged(run_dir: str) -> None:
    tracker = Tracker(Settings(), run_dir)
    rows = [{"step": step, "loss": 1 / (1 + step), "hr@1": step / 1000} for step in range(1200)]
    file = Path(run_dir, "metrics.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tracker.metrics("align", str(file)) == 2400
    assert tracker.metrics("align", str(file)) == 2400
    assert history(tracker, "align", "loss") == [(step, 1 / (1 + step)) for step in range(1200)]
    assert len(history(tracker, "align", "hr_at_1")) == 1200
    tracker.figures("align", {"arp": 120.5, "mrr": None})
    data = tracker.client.get_run(tracker.run("align")).data
    assert data.metrics["arp"] == 120.5
    assert "mrr" not in data.metrics


def test_settings_are_logged_without_secrets_and_a_changed_one_shows(run_dir: str) -> None:
    tracker = Tracker(Settings(), run_dir)
    values: dict[str, Any] = Settings().model_dump()
    values["data"]["interactions"] = "s3://KEY:SECRET@bucket/logs"
    tracker.params("rosepo", values)
    values["cluster"]["workers"] = 4
    tracker.params("rosepo", values)
    data = tracker.client.get_run(tracker.run_id).data
    assert data.params["data.interactions"] == "s3://***@bucket/logs"
    assert data.params["align.objective.type"] == "conservative"
    assert data.params["cluster.workers"] == "1"
    assert data.tags["changed.cluster.workers"] == "4"
    assert len(data.params) > 80
    assert "SECRET" not in json.dumps([data.params, data.tags])


def test_tags_and_artefacts(run_dir: str) -> None:
    tracker = Tracker(Settings(), run_dir)
    tracker.tags("rosepo", {"protocol": "abc", "where": "s3://a:b@c"})
    storage.write_bytes(storage.join(run_dir, "summary.json"), b"{}")
    storage.write_bytes(storage.join(run_dir, "data", "deep", "x.txt"), b"x")
    tracker.artifact("rosepo", storage.join(run_dir, "summary.json"))
    tracker.artifact("rosepo", storage.join(run_dir, "data"), "tables")
    tags = tracker.client.get_run(tracker.run_id).data.tags
    assert (tags["protocol"], tags["where"]) == ("abc", "s3://***@c")
    assert {file.path for file in tracker.client.list_artifacts(tracker.run_id)} == {"summary.json", "tables"}
    assert tracker.client.list_artifacts(tracker.run_id, "tables/deep")[0].path == "tables/deep/x.txt"
    with pytest.raises(RosepoError, match="does not exist"):
        tracker.artifact("rosepo", storage.join(run_dir, "none"))


def test_an_unreachable_server_is_refused_before_anything_is_written(run_dir: str) -> None:
    settings = Settings(mlflow=MlflowSettings(tracking_uri="http://127.0.0.1:9"))
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9 cannot be used"):
        Tracker(settings, run_dir)
    assert not storage.exists(run_dir)


def test_two_run_directories_in_one_process_keep_their_own_databases(tmp_path: Path, run_dir: str) -> None:
    first, second = Tracker(Settings(), run_dir), tracking_uri(MlflowSettings(), str(tmp_path / "run"))
    assert first.tracking_uri != second == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_another_server_starts_the_runs_afresh(root: Path, run_dir: str) -> None:
    tracker = Tracker(Settings(), run_dir)
    other = Settings(mlflow=MlflowSettings(tracking_uri=f"sqlite:///{root / 'other' / 'mlflow.db'}"))
    moved = Tracker(other, run_dir)
    assert moved.run_id != tracker.run_id
    assert Tracker(other, run_dir).run_id == moved.run_id
