"""A tracking server that is away for seconds, or for good, while a run goes: no step and no result is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.registry.sender import Sender
from rosepo_ray.registry.tracking import Tracker
from rosepo_ray.run import pipeline, sync
from rosepo_ray.run.sources import build
from rosepo_ray.stages.register import Record
from rosepo_ray.storage import metrics
from tests import finished_run
from tests.integration.mlflow_server import Server
from tests.synthetic import tiny

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"))
    found.start()
    yield found
    found.kill()


def steps(client: Any, run_id: str) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, "loss"))


def test_a_server_killed_in_the_middle_gets_every_step_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "_SECONDS", 0.0)  # of the writer: every row is written at once
    settings = MlflowSettings(tracking_uri=server.uri)
    folders = {"sft": str(tmp_path / "sft"), "align": str(tmp_path / "align")}
    record = Record(Tracker(settings, str(tmp_path)), build({}).model_dump(), folders)
    sender, over = Sender(record.send, seconds=0.2, longest=1.0), threading.Event()
    written = []

    def train() -> None:
        writer = metrics.Writer(folders["sft"])
        while not over.wait(0.02):
            writer.add({"step": len(written) + 1, "loss": 0.5})
            written.append(1)
        writer.close_part()

    thread = threading.Thread(target=train)
    thread.start()
    sender.start()
    over.wait(6)
    server.kill()
    at_outage = len(written)
    over.wait(4)
    server.start()
    over.wait(3)
    over.set()
    thread.join()
    assert sender.close("FINISHED", 60)
    assert len(written) > at_outage + 100, "training went on while the server was away"
    reader = Tracker(settings, str(tmp_path))
    assert steps(reader.client, reader.run("sft")) == list(range(1, len(written) + 1))
    assert reader.client.get_run(reader.run_id).info.status == "FINISHED"
    warnings = [line for line in caplog.messages if "cannot be told how the run goes" in line]
    assert len(warnings) == 1


def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_a_server_that_is_away_for_good_costs_no_result_and_sync_sends_the_rest(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has begun its record when the server goes; everything else happens without it."""
    run_dir, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny(tmp_path / "log"), "mlflow": {"tracking_uri": server.uri}}))
    settings = build(yaml.safe_load(recipe.read_text()))
    begun = Tracker(settings.mlflow, str(run_dir))
    run_id = begun.run_id
    finished_run.make({step.stage.name: step.folder for step in pipeline.plan(settings, str(run_dir))})
    server.kill()
    done = job("align", "--recipe", str(recipe), "--run.dir", str(run_dir))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"rosepo sync --run {run_dir}" in done.stderr
    assert "most popular" in done.stdout
    kept = json.loads((run_dir / "summary.json").read_text())
    assert kept["models"]["aligned"]["hr@1"]["value"] == 0.5
    assert kept["mlflow"] == {"tracking_uri": server.uri, "run_id": run_id, "model": None, "version": None}
    assert sync.main(["--run", str(run_dir)], "rosepo sync") == 2
    assert "cannot be used" in capsys.readouterr().err
    server.start()
    for _ in range(2):
        assert sync.main(["--run", str(run_dir)], "rosepo sync") == 0
        assert "version 1, alias challenger" in capsys.readouterr().out
    kept = json.loads((run_dir / "summary.json").read_text())
    assert (kept["mlflow"]["run_id"], kept["mlflow"]["version"]) == (run_id, "1")
    reader = Tracker(settings.mlflow, str(run_dir))
    for name in ("rosepo", "oracle", "sft", "align", "sft_longer", "evaluate"):
        assert reader.client.get_run(reader.run(name)).info.status == "FINISHED"
    assert steps(reader.client, reader.run("align")) == [1, 2, 3, 4]
    (model,) = reader.client.search_logged_models([reader.experiment_id], f"source_run_id = '{reader.run('align')}'")
    assert {(found.key, found.dataset_digest) for found in model.metrics if found.key == "hr_at_1"} == {
        ("hr_at_1", "d" * 36)
    }
    assert model.params["align.batch"] == "16"
    inputs = reader.client.get_run(reader.run("evaluate")).inputs.model_inputs
    assert [found.model_id for found in inputs] == [model.model_id]
    outputs = reader.client.get_run(reader.run("align")).outputs.model_outputs
    assert {found.model_id for found in outputs} == {model.model_id}


def test_what_an_unfinished_run_left_is_sent_and_it_is_marked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, values = tmp_path / "run", {**tiny(tmp_path / "log"), "mlflow": {"tracking_uri": server.uri}}
    settings = build(values)
    folders = {step.stage.name: step.folder for step in pipeline.plan(settings, str(run_dir))}
    (run_dir / "settings.yaml").parent.mkdir()
    (run_dir / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump()))
    Tracker(settings.mlflow, str(run_dir)).remember_end("FAILED")
    writer = metrics.Writer(folders["sft"])
    writer.add({"step": 1, "loss": 0.5})
    writer.close_part()
    for _ in range(2):
        assert sync.main(["--run", str(run_dir)], "rosepo sync") == 0
        assert "sft" in capsys.readouterr().out
    reader = Tracker(settings.mlflow, str(run_dir))
    assert steps(reader.client, reader.run("sft")) == [1]
    found = {name: reader.client.get_run(reader.run(name)).info.status for name in ("rosepo", "sft", "align")}
    assert found == {"rosepo": "FAILED", "sft": "FAILED", "align": "SCHEDULED"}


def test_no_run_directory_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(["--run", str(tmp_path / "none")], "rosepo sync") == 2
    assert "settings.yaml is missing" in capsys.readouterr().err
