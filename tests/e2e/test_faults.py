"""Killed at any moment, the same command continues and ends with the tables and metrics of an undisturbed run.

Each test copies the quiet run up to the stage that it disturbs, and compares what that stage leaves file by file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray.run import pipeline
from tests.e2e.conftest import Quiet
from tests.e2e.processes import Started, job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = [stage.name for stage in pipeline.STAGES]
TIMES = {"time", "step_seconds", "tokens_per_second", "wait_share", "seconds", "peak_pss_bytes"}


def prepared(quiet: Quiet, folder: Path, stage: str) -> list[str]:
    """A copy of the quiet run in which `stage` and all later ones are still to do; the arguments that go on with it."""
    assert quiet.done.returncode == 0, quiet.done.stderr[-3000:]
    later = STAGES[STAGES.index(stage) :]
    shutil.copytree(quiet.run_dir.parent / "stages", folder.parent / "stages", ignore=shutil.ignore_patterns(*later))
    left = shutil.ignore_patterns(".lock", "run.log", "summary.json", "stages.json")
    shutil.copytree(quiet.run_dir, folder, ignore=left)
    return ["--recipe", str(quiet.recipe), "--run.dir", str(folder)]


def stage_folder(run_dir: Path, stage: str) -> Path:
    return next(path for path in (run_dir.parent / "stages" / stage).iterdir() if path.is_dir())


def stored(run_dir: Path, pattern: str) -> list[Path]:
    return sorted((run_dir.parent / "stages").glob(pattern))


def values(found: Any) -> Any:
    """What does not depend on the clock."""
    if isinstance(found, dict):
        return {name: values(value) for name, value in found.items() if name not in TIMES}
    return [values(value) for value in found] if isinstance(found, list) else found


def metrics(folder: Path) -> list[Any]:
    return [values(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_the_same(quiet: Quiet, run_dir: Path, stage: str) -> None:
    """Every file by hash, the metrics by value, and nothing left over."""
    there, here = stage_folder(quiet.run_dir, stage), stage_folder(run_dir, stage)
    assert there.name == here.name
    marked = [json.loads((folder / "_done.json").read_text()) for folder in (there, here)]
    files = [{name: f for name, f in m["files"].items() if not name.endswith("metrics.jsonl")} for m in marked]
    assert files[0] == files[1]
    assert values(marked[0]["info"]) == values(marked[1]["info"])
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (there, here)]
    assert names[0] == names[1]
    if (there / "metrics.jsonl").exists():
        assert metrics(there) == metrics(here)


def run_log(run_dir: Path) -> str:
    return (run_dir / "run.log").read_text()


def test_the_data_stage_starts_afresh(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "data")
    with Started("stage", "data", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "data/*/_partitions/*") or stored(run_dir, "data/*/sequences/*"))
        started.kill_driver()
    assert not stored(run_dir, "data/*/_done.json")
    assert job("stage", "data", *arguments).returncode == 0
    assert_the_same(quiet, run_dir, "data")


def test_sft_goes_on_after_sigterm_and_after_the_death_of_everything(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "sft")
    with Started("stage", "sft", *arguments, output=tmp_path / "out1") as started:
        started.wait_for(lambda: stored(run_dir, "sft/*/checkpoints/step-00000020/_done.json"))
        started.terminate()
        assert started.end(60) == 143, (tmp_path / "out1").read_text()
    said = (tmp_path / "out1").read_text()
    assert "SIGTERM" in said
    steps = [int(path.parent.name.removeprefix("step-")) for path in stored(run_dir, "sft/*/checkpoints/*/_done.json")]
    assert 20 <= max(steps) < 150
    assert f"checkpoint at step {max(steps)} of 150" in said
    with Started("stage", "sft", *arguments, output=tmp_path / "out2") as started:
        following = max(steps) // 20 * 20 + 20
        started.wait_for(lambda: stored(run_dir, f"sft/*/checkpoints/step-{following:08d}/_done.json"))
        started.kill_everything()
    assert not stored(run_dir, "sft/*/_done.json")
    assert job("stage", "sft", *arguments).returncode == 0
    assert f"going on after step {max(steps)} of 150" in run_log(run_dir)
    assert f"going on after step {following} of 150" in run_log(run_dir)
    assert_the_same(quiet, run_dir, "sft")


def test_rejection_survives_its_actors(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "reject")
    with Started("stage", "reject", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "reject/*/pairs/*.parquet"))
        actors = started.called("_OneUnit")
        assert actors
        for actor in actors:
            actor.kill()
        assert not stored(run_dir, "reject/*/_done.json")
        assert started.end() == 0, (tmp_path / "out").read_text()
    assert_the_same(quiet, run_dir, "reject")


def test_rejection_goes_on_after_the_death_of_the_driver(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "reject")
    with Started("stage", "reject", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "reject/*/pairs/*.parquet"))
        started.kill_driver()
    before = {path: path.stat().st_mtime_ns for path in stored(run_dir, "reject/*/pairs/*.parquet")}
    assert before
    assert not stored(run_dir, "reject/*/_done.json")
    assert job("stage", "reject", *arguments).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # no unit was scored twice
    assert_the_same(quiet, run_dir, "reject")


def test_alignment_survives_its_worker_and_the_oracle(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "align")
    with Started("stage", "align", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "align/*/answers/smoothing/*.parquet"))  # it is being asked
        replicas = started.called("ServeReplica")
        assert replicas
        for replica in replicas:
            replica.kill()
        started.wait_for(lambda: stored(run_dir, "align/*/checkpoints/step-00000016/_done.json"))
        workers = started.called("RayTrainWorker")
        assert workers
        for worker in workers:
            worker.kill()
        assert not stored(run_dir, "align/*/metrics.jsonl")
        assert started.end() == 0, (tmp_path / "out").read_text()
    assert "going on after step" in run_log(run_dir)
    assert "asked twice" not in run_log(run_dir)
    assert_the_same(quiet, run_dir, "align")


def test_alignment_goes_on_before_a_damaged_checkpoint(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "align")
    with Started("stage", "align", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "align/*/checkpoints/step-00000032/_done.json"))
        started.kill_driver()
    assert not stored(run_dir, "align/*/metrics.jsonl")
    kept, newest = [path.parent for path in stored(run_dir, "align/*/checkpoints/*/_done.json")]
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = job("stage", "align", *arguments)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if f"{newest} is damaged" in line]
    assert len(warnings) == 1
    assert f"going on after step {int(kept.name.removeprefix('step-'))} of" in run_log(run_dir)
    assert "asked twice" not in run_log(run_dir)
    assert_the_same(quiet, run_dir, "align")


def test_evaluation_goes_on_with_the_rows_that_are_missing(quiet: Quiet, tmp_path: Path):
    run_dir = tmp_path / "run"
    arguments = prepared(quiet, run_dir, "evaluate")
    with Started("stage", "evaluate", *arguments, output=tmp_path / "out") as started:
        started.wait_for(lambda: stored(run_dir, "evaluate/*/predictions/sft/predictions/*.parquet"))
        started.terminate()
        assert started.end(60) == 143, (tmp_path / "out").read_text()
    before = {path: path.stat().st_mtime_ns for path in stored(run_dir, "evaluate/*/predictions/sft/*/*.parquet")}
    assert before
    assert not stored(run_dir, "evaluate/*/_done.json")
    assert job("stage", "evaluate", *arguments).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_the_same(quiet, run_dir, "evaluate")


def test_the_whole_job_killed_three_times_says_what_the_quiet_run_said(quiet: Quiet, tmp_path: Path):
    """From nothing, with other actors: killed in the oracle's training, when alignment has trained but not ended, and
    while MLflow is written. Two runs with one seed: the same files, and a summary equal to the last digit."""
    assert quiet.done.returncode == 0, quiet.done.stderr[-3000:]
    other = tmp_path / "other"
    arguments = ["--recipe", str(quiet.recipe), "--run.dir", str(other), "--cluster.actors", "3"]
    moments = (
        lambda: stored(other, "oracle/*/fold0/train/*"),
        lambda: stored(other, "align/*/metrics.jsonl"),
        lambda: (other / "summary.json").exists(),
    )
    for number, moment in enumerate(moments):
        with Started("align", *arguments, output=tmp_path / f"out{number}") as started:
            started.wait_for(moment, 400)
            started.kill_everything()
    done = job("align", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in STAGES:
        assert_the_same(quiet, other, stage)
    there, here = (json.loads((folder / "summary.json").read_text()) for folder in (quiet.run_dir, other))
    versions = [int(found["mlflow"]["version"]) for found in (there, here)]
    assert versions == [1, 1]  # killed while it registered, and registered once
    for name in ("run_dir", "mlflow", "stages"):
        del there[name], here[name]
    assert values(here) == values(there)
