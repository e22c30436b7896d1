"""Failures of real jobs: a disk that fills up while a model trains, and a log that cannot work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rosepo_ray.storage import disk_space
from tests.synthetic import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return subprocess.Popen(
        [sys.executable, f"jobs/{name}.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system just above the space that a run asks for, where the tests may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={disk_space.MINIMUM_BYTES + (16 << 20)}"
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        size = 1 << 20
        while size >= 1:
            try:
                stream.write(b"x" * size)
            except OSError:
                size //= 2


def test_a_disk_that_fills_up_ends_the_job_and_freed_the_same_command_continues(small_disk: Path, tmp_path: Path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny(tmp_path / "log")))
    run_dir = small_disk / "run"
    arguments = ("--recipe", str(recipe), "--run.dir", str(run_dir))
    prepared = start("stage", "data", *arguments)
    assert prepared.wait() == 0, prepared.communicate()[1]

    job = start("stage", "sft", *arguments)
    while job.poll() is None and not any('"stage": "sft"' in p.read_text() for p in run_dir.glob("logs/job-*")):
        time.sleep(0.2)
    fill(small_disk / "filler")
    settings = (run_dir / "settings.yaml").read_bytes()
    _, shown = job.communicate()
    assert job.returncode == 2, shown
    lines = shown.splitlines()
    assert "Traceback" not in shown
    (failed,) = [line for line in lines if line.startswith("error: ")]
    assert failed.startswith("error: sft: no disk space left on ")
    assert f"{small_disk}/stages/sft/" in failed
    assert "has 0 MiB free" in failed
    if lines[-1].startswith(f"warning: the log stays in {run_dir}/logs until the next start joins it: "):
        lines.pop()  # on the same disk, which may have room for the parts' last lines and not for a whole run.log
    assert lines[-2].startswith(f"The full log: {run_dir}/run.log")
    assert lines[-1].startswith(f"The same command with --run.dir {run_dir} continues: data is kept, sft ")
    assert not list(small_disk.rglob(".tmp-*"))
    assert (run_dir / "settings.yaml").read_bytes() == settings

    refused = start("stage", "sft", *arguments)
    _, shown = refused.communicate()
    assert refused.returncode == 2
    assert "of disk space left, and a run needs" in shown
    (small_disk / "filler").unlink()
    again = start("stage", "sft", *arguments)
    assert again.wait() == 0, again.communicate()[1]
    assert list(small_disk.glob("stages/sft/*/_done.json"))
    # The log lies on the same disk: where there was no room for the line, the job said that it is incomplete.
    assert "(incomplete: " in lines[-2] or "no disk space left on" in (run_dir / "run.log").read_text()
    assert not (run_dir / "logs").exists()


def test_a_log_that_cannot_work_ends_in_three_json_lines(tmp_path: Path):
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{n},Title {n}\n" for n in range(30)))
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{n},{n},{n}\n" for n in range(30))  # one item per user
    )
    values = {
        "data": {"sample": "none", "interactions": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv")}
    }
    recipe, run_dir = tmp_path / "one.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(values))
    job = start("align", "--recipe", str(recipe), "--run.dir", str(run_dir), "--run.log", "json")
    _, shown = job.communicate()
    assert job.returncode == 2, shown
    failed, log, after = [json.loads(line) for line in shown.splitlines()[-3:]]
    assert failed["level"] == "ERROR"
    assert failed["message"].startswith("data: no user of the log has two items")
    assert log["message"] == f"The full log: {run_dir}/run.log"
    assert "would end the same way: change first what the message names" in after["message"]
    assert after["message"].endswith("no stage is finished, data starts from its beginning")
    records = [json.loads(line) for line in (run_dir / "run.log").read_text().splitlines()]
    assert records[-3]["stage"] == "data"
    assert "Traceback" in records[-3]["exception"]
