"""Progress: what is said, how often, and how a training worker's step comes to the driver. Without Ray."""

from __future__ import annotations

import logging
import os
import pickle
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rosepo_ray import storage
from rosepo_ray.on_ray import progress


def test_rate_and_remaining_time_leave_out_what_was_done_before():
    counter = progress.Counter("sft", 1000)
    now = 100.0
    counter.bar.get_time = lambda: now
    counter.update(300)  # stored by an earlier start
    assert str(counter) == "sft 300/1000"
    for now, done in ((110.0, 310), (120.0, 320)):  # noqa: B007 - read by get_time
        counter.update(done, "loss 2.31")
    assert str(counter) == "sft 320/1000, loss 2.31, 11 min left"  # 680 steps at one a second
    assert progress._words(7260) == "2 h 1 min"
    assert progress._words(20) == "20 s"


def test_off_a_terminal_it_says_where_it_is_every_so_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "_SAY_SECONDS", 0.2)
    with caplog.at_level(logging.INFO, "rosepo_ray"), progress.counting("reject", 8) as counter:
        counter.update(3)
        time.sleep(0.5)
    assert caplog.messages == ["reject 3/8"] * 2


def test_a_stage_that_counts_nothing_gives_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "_SAY_SECONDS", 0.2)
    with caplog.at_level(logging.INFO, "rosepo_ray"), progress.sign_of_life("data"):
        time.sleep(0.5)
        with progress.counting("a part of it", 3):
            time.sleep(0.3)
    assert caplog.messages[:2] == ["data, 0 s so far"] * 2
    assert set(caplog.messages[2:]) == {"a part of it 0/3"}


@pytest.mark.parametrize("folder", ["local", "memory://bucket/run"])
def test_a_workers_step_comes_to_the_driver_and_leaves_nothing(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []
    monkeypatch.setattr(progress.Counter, "update", lambda self, done, note: seen.append(f"{done} {note}"))
    monkeypatch.setattr(progress.storage, "is_local", lambda uri: True)  # look every second
    uri = storage.join(str(tmp_path) if folder == "local" else folder, "progress.json")
    with progress.reported("sft", 100, uri) as reporter:
        worker = pickle.loads(pickle.dumps(reporter))
        worker.update(7, 2.345)
        worker.update(8, 2.2)  # within the same second
        assert storage.read_json(uri) == {"step": 7, "loss": 2.345}
        time.sleep(1.3)
    assert seen == ["7 loss 2.35"]
    assert not storage.exists(uri)


def test_a_full_disk_ends_no_training_by_its_progress(tmp_path: Path):
    (tmp_path / "file").write_text("")
    progress.Reporter(str(tmp_path / "file" / "progress.json")).update(1, 2.0)


def test_on_a_terminal_there_is_a_bar_and_the_log_stands_above_it(tmp_path: Path):
    code = """
import logging, sys, time
from rosepo_ray.on_ray import progress
from rosepo_ray.process import run_log
with run_log.opened(sys.argv[1]), progress.counting("evaluate", 4) as counter:
    counter.update(2)
    logging.getLogger("rosepo_ray.x").warning("look [out]")
    time.sleep(0.3)
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=theirs, env=environment)
    assert done.wait(60) == 0
    shown = os.read(ours, 1 << 16).decode()
    assert "evaluate" in shown
    assert "2/4" in shown
    assert "warning: look [out]\r\n" in shown.replace("\x1b[0m", "")
