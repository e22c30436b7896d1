"""The MLflow record of a run directory while the run goes, on a real sqlite database."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.registry import server
from rosepo_ray.registry.sender import Sender
from rosepo_ray.registry.tracking import Tracker, dataset_of
from rosepo_ray.run import job
from rosepo_ray.run.sources import build
from rosepo_ray.stages.register import Record
from rosepo_ray.storage import metrics
from tests import finished_run

SETTINGS = MlflowSettings()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the file: its first touch takes seconds. In its path no sign means anything."""
    return tmp_path_factory.mktemp("mlflow") / "a%41 b?#c"


@pytest.fixture
def run_dir(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return str(root / request.node.name)


def steps(tracker: Tracker, run: str, metric: str = "loss") -> list[int]:
    return sorted(point.step for point in tracker.client.get_metric_history(tracker.run(run), metric))


def rows(first: int, last: int, life: int = 0) -> list[metrics.Row]:
    """What a training run writes; another life has the same figures at other times."""
    return [
        {"step": n, "loss": 1 / n, "hr@1": n / 10000, "time": 1.8e9 + n + 1000 * life} for n in range(first, last + 1)
    ]


def status(tracker: Tracker, run: str) -> str:
    return str(tracker.client.get_run(tracker.run(run)).info.status)


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_second_start_continues_the_same_runs(root: Path, run_dir: str) -> None:
    first = Tracker(SETTINGS, run_dir)
    assert not first.begun
    made = {name: first.run(name) for name in ("rosepo", "oracle", "sft", "align")}
    first.status("sft", "FINISHED")
    first.status("rosepo", "FAILED")
    again = Tracker(SETTINGS, run_dir)
    assert again.begun
    assert {name: again.run(name) for name in made} == made
    again.status("rosepo", "RUNNING")
    parent = again.client.get_run(again.run_id)
    assert parent.info.status == "RUNNING"
    for name in ("oracle", "sft", "align"):
        assert again.client.get_run(made[name]).data.tags["mlflow.parentRunId"] == first.run_id
    assert (root / "mlflow.db").is_file()
    assert parent.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert status(again, "sft") == "FINISHED"


def test_a_deleted_run_is_made_anew(run_dir: str) -> None:
    tracker = Tracker(SETTINGS, run_dir)
    lost = tracker.run("sft")
    tracker.client.delete_run(lost)
    assert Tracker(SETTINGS, run_dir).run("sft") != lost


def test_each_step_once_though_a_resumed_run_repeats_some(run_dir: str) -> None:
    tracker = Tracker(SETTINGS, run_dir)
    tracker.metrics("align", rows(1, 700))
    tracker.metrics("align", rows(1, 900))
    resumed = Tracker(SETTINGS, run_dir)
    resumed.metrics("align", rows(601, 1200, life=1))
    assert steps(resumed, "align") == list(range(1, 1201))
    assert len(steps(resumed, "align", "hr_at_1")) == 1200
    resumed.metrics("align", rows(1, 5), prefix="fold0/")
    assert steps(resumed, "align", "fold0/loss") == [1, 2, 3, 4, 5]


def test_a_batch_whose_answer_is_lost_is_not_sent_twice(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has taken the points, the connection breaks: asked again, it says what it has."""
    tracker = Tracker(SETTINGS, run_dir)
    real = tracker.client.log_batch

    def breaks(*given: Any, **named: Any) -> None:
        real(*given, **named)
        raise ConnectionError

    tracker.last_step("sft")
    monkeypatch.setattr(tracker.client, "log_batch", breaks)
    with pytest.raises(ConnectionError):
        tracker.metrics("sft", rows(1, 10))
    monkeypatch.undo()
    tracker.metrics("sft", rows(1, 12, life=1))
    assert steps(tracker, "sft") == list(range(1, 13))


def test_settings_are_logged_without_secrets_and_a_changed_one_shows(run_dir: str) -> None:
    tracker = Tracker(SETTINGS, run_dir)
    values: dict[str, Any] = build({}).model_dump()
    values["data"]["interactions"] = "s3://KEY:SECRET@bucket/logs"
    tracker.params("rosepo", values)
    values["cluster"]["workers"] = 4
    tracker.params("rosepo", values)
    data = tracker.client.get_run(tracker.run_id).data
    assert data.params["data.interactions"] == "s3://***@bucket/logs"
    assert data.params["align.objective.type"] == "conservative"
    assert data.params["cluster.workers"] == "1"
    assert data.tags["changed.cluster.workers"] == "4"
    assert len(data.params) > 60
    assert "SECRET" not in json.dumps([data.params, data.tags])


def test_a_data_set_is_an_input_once_and_without_its_secrets(run_dir: str) -> None:
    tracker = Tracker(SETTINGS, run_dir)
    for _ in range(2):
        tracker.dataset(["sft", "evaluate"], "s3://KEY:SECRET@bucket/log.parquet", "d" * 64, {"users": 5})
    (found,) = tracker.client.get_run(tracker.run("sft")).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == dataset_of("s3://x/log.parquet", "d" * 64)
    assert (found.dataset.name, found.dataset.digest) == ("log.parquet", "d" * 36)
    assert json.loads(found.dataset.source) == {"uri": "s3://***@bucket/log.parquet"}
    assert [tag.value for tag in found.tags] == ["training"]


def test_tags_and_artefacts(run_dir: str) -> None:
    tracker = Tracker(SETTINGS, run_dir)
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


def test_another_server_starts_the_runs_afresh(root: Path, run_dir: str) -> None:
    run_id = Tracker(SETTINGS, run_dir).run_id
    other = MlflowSettings(tracking_uri=f"sqlite:///{root / 'other' / 'mlflow.db'}")
    moved = Tracker(other, run_dir)
    assert not moved.begun
    assert moved.run_id != run_id
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


def test_a_registry_that_does_not_answer_is_refused_by_name(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match=r"the MLflow registry http://127.* cannot be used .*MLFLOW_REGISTRY_URI"):
        server.refuse_unusable(SETTINGS, server.tracking_uri(SETTINGS, run_dir))


@pytest.fixture
def record(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> Record:
    """The record of a run whose stages have not begun."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    names = ("data", "sft", "oracle", "reject", "calibrate", "align", "sft_longer", "evaluate")
    folders = {name: f"{run_dir}/{name}/0" for name in names}
    return Record(Tracker(SETTINGS, run_dir), build({}).model_dump(), folders)


def test_figures_arrive_while_training_and_states_follow(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SECONDS", 0.0)  # of the writer: every row is written at once
    tracker, nested = record.tracker, ("oracle", "sft", "align", "sft_longer", "evaluate")
    sender = Sender(record.send, seconds=0.05)
    sender.start()
    wait_for(lambda: "evaluate" in Tracker(SETTINGS, tracker.run_dir)._state["runs"])
    reader = Tracker(SETTINGS, tracker.run_dir)  # of this thread; it knows the runs and makes none
    seen = threading.Event()

    def train() -> None:
        writer = metrics.Writer(record.folders["sft"])
        for row in rows(1, 40):
            writer.add(row)
            if row["step"] == 20:
                seen.wait(60)
        writer.close_part()

    thread = threading.Thread(target=train)
    thread.start()
    wait_for(lambda: len(steps(reader, "sft")) == 20)  # while the training goes on
    seen.set()
    thread.join()

    def own_figures() -> bool:
        return any(key.startswith("system/") for key in reader.client.get_run(reader.run_id).data.metrics)

    wait_for(own_figures)  # MLflow's of the machine
    assert sender.close("FAILED", 60)
    assert steps(reader, "sft") == list(range(1, 41))
    assert {name: status(reader, name) for name in ("rosepo", *nested)} == {
        "rosepo": "FAILED",
        "sft": "FAILED",  # it had begun
        **dict.fromkeys(("oracle", "align", "sft_longer", "evaluate"), "SCHEDULED"),
    }


def test_a_resumed_run_runs_again_and_ends_finished(record: Record) -> None:
    first = record
    first.send()
    first.send("KILLED")
    assert status(first.tracker, "rosepo") == "KILLED"
    finished_run.make(first.folders)
    again = Record(Tracker(SETTINGS, first.tracker.run_dir), first.values, first.folders)
    again.send()
    assert status(first.tracker, "rosepo") == "RUNNING"
    for _ in range(2):
        again.send("FINISHED")
    reader = again.tracker
    for name in ("rosepo", "oracle", "sft", "align", "sft_longer", "evaluate"):
        assert status(reader, name) == "FINISHED"
        (found,) = reader.client.get_run(reader.run(name)).inputs.dataset_inputs
        assert found.dataset.digest == "d" * 36
    assert steps(reader, "oracle", "fold0/loss") == steps(reader, "align") == [1, 2, 3, 4]
    oracle = reader.client.get_run(reader.run("oracle")).data.metrics
    assert (oracle["temperature"], oracle["epsilon_validation"]) == (1.5, 0.5)
    assert reader.client.get_run(reader.run("evaluate")).data.metrics["aligned.hr_at_1"] == 0.5
    points = reader.client.get_metric_history(reader.run("evaluate"), "aligned.hr_at_1")
    assert len(points) == 1
    assert reader.client.get_run(reader.run_id).data.tags["rosepo.protocol"] == "p" * 64


def test_system_metrics_can_be_switched_off(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    record = Record(Tracker(SETTINGS, run_dir), build({}).model_dump(), {})
    before = threading.active_count()
    record.send()
    assert threading.active_count() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
