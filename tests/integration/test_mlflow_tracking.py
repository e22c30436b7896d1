"""The MLflow record of a run directory, on a real sqlite database."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.registry import reachable
from rosepo_ray.registry.tracking import Tracker, tracking_uri
from rosepo_ray.run import job
from rosepo_ray.run.settings import Settings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the file: its first touch takes seconds. In its path no sign means anything."""
    return tmp_path_factory.mktemp("mlflow") / "a%41 b?#c"


@pytest.fixture
def run_dir(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return str(root / request.node.name)


def history(tracker: Tracker, run: str, metric: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(tracker.run(run), metric)
    return sorted((point.step, point.value) for point in points)


def test_a_second_start_continues_the_same_runs(root: Path, run_dir: str) -> None:
    first = Tracker(MlflowSettings(), run_dir)
    made = {name: first.run(name) for name in ("oracle", "sft", "align")}
    first.finish("sft")
    first.finish("rosepo", failed=True)
    again = Tracker(MlflowSettings(), run_dir)
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
    tracker = Tracker(MlflowSettings(), run_dir)
    lost = tracker.run("sft")
    tracker.client.delete_run(lost)
    fresh = Tracker(MlflowSettings(), run_dir).run("sft")
    assert fresh != lost


def test_metrics_by_step_once_however_often_they_are_logged(run_dir: str) -> None:
    tracker = Tracker(MlflowSettings(), run_dir)
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
    tracker = Tracker(MlflowSettings(), run_dir)
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
    tracker = Tracker(MlflowSettings(), run_dir)
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
    settings = MlflowSettings(tracking_uri="http://127.0.0.1:9")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9 cannot be used"):
        Tracker(settings, run_dir)
    assert not storage.exists(run_dir)


def test_two_run_directories_in_one_process_keep_their_own_databases(tmp_path: Path, run_dir: str) -> None:
    first, second = Tracker(MlflowSettings(), run_dir), tracking_uri(MlflowSettings(), str(tmp_path / "run"))
    assert first.tracking_uri != second == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_another_server_starts_the_runs_afresh(root: Path, run_dir: str) -> None:
    tracker = Tracker(MlflowSettings(), run_dir)
    other = MlflowSettings(tracking_uri=f"sqlite:///{root / 'other' / 'mlflow.db'}")
    moved = Tracker(other, run_dir)
    assert moved.run_id != tracker.run_id
    assert Tracker(other, run_dir).run_id == moved.run_id


def test_a_deleted_experiment_is_refused_before_any_work(
    root: Path, run_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(MlflowSettings(experiment="gone"), run_dir)
    tracker.client.delete_experiment(tracker.experiment_id)
    argv = ["--run.dir", str(root / "fresh"), "--mlflow.tracking_uri", tracker.tracking_uri]
    assert job.main([*argv, "--mlflow.experiment", "gone"], "align", "") == 2
    assert capsys.readouterr().err == (
        "error: the MLflow experiment 'gone' was deleted; restore it, or set mlflow.experiment to another\n"
    )
    assert not (root / "fresh").exists()
    reachable.check(tracker.tracking_uri, "never made")
    assert tracker.client.get_experiment_by_name("never made") is None, "asking must not make it"


def test_an_empty_database_gets_no_tables_by_being_asked(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    reachable.check(f"sqlite:///{tmp_path / 'mlflow.db'}", "rosepo")
    assert (tmp_path / "mlflow.db").stat().st_size == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that is healthy and answers nothing else."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                over.wait(60)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_hangs_after_its_health_is_refused_in_bounded_time(silent: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match="no answer within 7 seconds") as caught:
        reachable.check(f"http://user:hunter2@{silent}", "rosepo")
    assert time.monotonic() - began < 60  # 7 after the import of MLflow, which a busy machine makes slow
    assert "hunter2" not in str(caught.value)


def test_a_database_server_that_is_not_there_is_refused_in_a_sentence() -> None:
    """By its driver; or, where none is installed as here, by that."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        uri = f"postgresql://user:hunter2@127.0.0.1:{held.getsockname()[1]}/mlflow"
        with pytest.raises(BadInput, match=r"the MLflow server postgresql://\*\*\*@127.* cannot be used \(") as caught:
            reachable.check(uri, "rosepo")
    assert "hunter2" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert os.linesep not in str(caught.value)
