"""The jobs as a user starts them: plain scripts, started again, with other settings, promoted, and submitted."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Quiet
from tests.e2e.processes import ROOT, job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_job_ends_with_the_table_and_the_run_directory(quiet: Quiet):
    _, run_dir, done = quiet
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == str(run_dir)
    for label in ("most popular", "oracle", "SFT", "SFT longer", "aligned"):
        assert any(re.match(rf"{label} +0\.\d+ \[", line) for line in lines), done.stdout
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {stage["state"] for stage in summary["stages"].values()} == {"run"}
    assert summary["peak_pss_bytes"] > 100 << 20
    assert (run_dir / "run.log").read_text().count("run directory") == 1


def test_the_terminal_is_not_flooded_by_ray(quiet: Quiet):
    noise = [line for line in quiet.done.stderr.splitlines() if "pid=" in line or "WARNING" in line]
    assert len(noise) < 5, noise


def test_a_second_start_computes_nothing_again(quiet: Quiet):
    recipe, run_dir, first = quiet
    again = job("align", "--recipe", str(recipe), "--run.dir", str(run_dir))
    assert again.returncode == 0, again.stderr[-3000:]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {stage["state"] for stage in summary["stages"].values()} == {"skipped"}
    assert summary["mlflow"]["version"] == "1"
    tables = [
        [line for line in text.splitlines() if line.startswith("aligned")] for text in (first.stdout, again.stdout)
    ]
    assert tables[0] == tables[1]


def test_other_settings_in_the_same_directory_are_refused(quiet: Quiet):
    refused = job(
        "align", "--recipe", str(quiet.recipe), "--run.dir", str(quiet.run_dir), "--align.objective.beta", "0.3"
    )
    assert refused.returncode == 2
    assert "align.objective.beta is 0.1 there and 0.3 here" in refused.stderr


def test_dry_run_prints_the_plan_and_writes_nothing(recipe: Path, tmp_path: Path):
    done = job("align", "--recipe", str(recipe), "--run.dir", str(tmp_path / "none"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "evaluate   to do" in done.stdout
    assert "CPUs" in done.stdout
    assert not (tmp_path / "none").exists()


def test_promotion_moves_the_champion(quiet: Quiet):
    run_dir = quiet.run_dir
    assert job("promote", "--run", str(run_dir), "--dry-run").returncode == 0
    done = job("promote", "--run", str(run_dir))
    assert done.returncode == 0, done.stderr
    assert "champion" in done.stdout
    assert job("promote", "--run", str(run_dir.parent / "absent")).returncode == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Client and cluster must agree on how they know each other; a token of this test's own leaves no file behind.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head of its own process group; ended by that group alone."""
    dashboard = free_port()
    head = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "ray"),
            *("start", "--head", "--block", "--disable-usage-stats", "--num-cpus", "6"),
            *("--port", str(free_port()), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
            *("--node-ip-address", "127.0.0.1", "--object-store-memory", str(300 << 20)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **TOKEN, "RAY_worker_niceness": "0"},
    )
    try:
        for _ in range(90):
            time.sleep(1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
        time.sleep(5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        # `ray start` leaves a note of its address, which plain `ray.init()` would follow to nowhere.
        Path("/tmp/ray/ray_current_cluster").unlink(missing_ok=True)


def test_the_job_runs_through_ray_job_submit(recipe: Path, cluster: str, tmp_path: Path):
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"),
            *("job", "submit", "--address", cluster, "--working-dir", "."),
            "--runtime-env-json",
            json.dumps({"excludes": [".git", ".venv", "runs", "tests"]}),
            *("--", sys.executable, "jobs/align.py", "--recipe", str(recipe), "--run.dir", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}, **TOKEN},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["models"]["aligned"]["hr@1"]["rows"] > 50
