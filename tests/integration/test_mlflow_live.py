"""Figures of the real trainer reach MLflow while it trains, and a run that goes on adds no step twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray import storage
from rosepo_ray.registry.tracking import Tracker
from rosepo_ray.run import pipeline
from rosepo_ray.run.record import Recording
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import metrics
from tests.synthetic import tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
STEPS = 800


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    values = tiny(tmp_path_factory.mktemp("log"))
    return build({**values, "sft": {**values["sft"], "steps": STEPS, "checkpoint_every": STEPS // 2}})


def steps(tracker: Tracker) -> list[int]:
    return sorted(point.step for point in tracker.client.get_metric_history(tracker.run("sft"), "loss"))


def test_the_curve_arrives_while_the_workers_train(settings: Settings, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    folders = {step.stage.name: step.folder for step in pipeline.plan(settings, run_dir)}
    Tracker(settings.mlflow, run_dir).run("sft")  # the database's first touch takes seconds
    recording = Recording(settings, run_dir, folders)
    reader, over = Tracker(settings.mlflow, run_dir), threading.Event()
    seen: list[tuple[int, bool]] = []
    failed: list[BaseException] = []

    def watch() -> None:
        try:
            while not over.is_set():
                count = len(steps(reader))
                seen.append((count, storage.exists(storage.join(folders["sft"], metrics.NAME))))
                time.sleep(0.5)
        except BaseException as error:
            failed.append(error)

    recording.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for stage in ("data", "sft"):
            pipeline.run(settings, run_dir, stage)
    finally:
        over.set()
        watcher.join()
        recording.end()
    assert not failed
    assert any(0 < count < STEPS and not trained for count, trained in seen), seen
    assert steps(reader) == list(range(1, STEPS + 1))
    assert reader.client.get_run(reader.run("sft")).info.status == "FINISHED"
    rows = {row["step"]: row for row in metrics.read(folders["sft"])}
    points: list[Any] = reader.client.get_metric_history(reader.run("sft"), "loss")
    assert {point.step: point.value for point in points} == {step: row["loss"] for step, row in rows.items()}
    again = Recording(settings, run_dir, folders)
    again.start()
    again.end()
    assert steps(reader) == list(range(1, STEPS + 1))
