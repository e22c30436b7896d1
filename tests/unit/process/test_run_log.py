"""The run's log: what a line looks like, many processes in one file, object stores, and what the terminal shows."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import fsspec
import pytest
from pyarrow import fs

from rosepo_ray import storage
from rosepo_ray.process import log_files, log_lines, run_log
from rosepo_ray.process.log_lines import Who
from rosepo_ray.process.run_log import LOGGER

WORKER = """
import pickle, sys, warnings
from rosepo_ray.process import run_log
target = pickle.loads(bytes.fromhex(sys.argv[1]))
with run_log.in_worker(target, sys.argv[2]):
    exec(sys.argv[3])
"""


def start_worker(role: str, code: str) -> subprocess.Popen[bytes]:
    """A process that does what a Ray worker does with the target that the driver hands to it."""
    target = pickle.dumps(run_log.target()).hex()
    return subprocess.Popen([sys.executable, "-c", WORKER, target, role, code], stderr=subprocess.PIPE)


def heads(run_dir: Path) -> list[str]:
    return [line for line in (run_dir / "run.log").read_text().splitlines() if not line.startswith(" ")]


def test_a_line_for_people_has_time_level_process_stage_and_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with run_log.opened(str(tmp_path)):
        LOGGER.info("first")
        with run_log.stage("sft"):
            LOGGER.warning("second\nhalf")
    first, second, half = (tmp_path / "run.log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO job@\S+:\d+ -: first", first)
    assert re.search(r" WARNING job@\S+:\d+ sft: second$", second)
    assert half == "    half"
    assert capsys.readouterr().err == "first\nwarning: second\nhalf\n"


def test_json_lines_hold_the_traceback_as_text_and_the_terminal_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with run_log.opened(str(tmp_path), "json"):
        try:
            raise ValueError("boom")
        except ValueError:
            LOGGER.error("it failed", exc_info=True)
    (record,) = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert {name: record[name] for name in ("level", "role", "stage", "message")} == {
        "level": "ERROR",
        "role": "job",
        "stage": None,
        "message": "it failed",
    }
    assert record["exception"].startswith("Traceback")
    assert record["exception"].endswith("ValueError: boom")
    shown = json.loads(capsys.readouterr().err)
    assert shown.keys() == {"time", "level", "message"}


def test_a_second_start_appends(tmp_path: Path):
    for number in range(2):
        with run_log.opened(str(tmp_path)):
            LOGGER.info("start %d", number)
    assert [line.rpartition(": ")[2] for line in heads(tmp_path)] == ["start 0", "start 1"]


def test_several_processes_write_whole_records_into_one_file(tmp_path: Path):
    """Three workers and the driver, 300 records of up to 20,000 characters each: longer than a page."""
    code = "for n in range(300): run_log.LOGGER.info('%d %s end', n, sys.argv[2] * (1 + 17 * n % 5000))"
    with run_log.opened(str(tmp_path)), run_log.stage("sft"):
        workers = [start_worker(role, code) for role in ("aaaa", "bbbb", "cccc")]
        for number in range(300):
            LOGGER.info("driver %d", number)
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    found = heads(tmp_path)
    for role in ("aaaa", "bbbb", "cccc"):
        mine = [line.partition(" sft: ")[2] for line in found if f" {role}@" in line]
        assert mine == [f"{n} {role * (1 + 17 * n % 5000)} end" for n in range(300)]
    assert len(found) == 4 * 300


def test_workers_warnings_and_failures_reach_the_terminal_and_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code = """
import logging, threading
run_log.LOGGER.info('started')
run_log.LOGGER.warning('checkpoint 2 is damaged, using checkpoint 1')
warnings.warn('of python')
logging.getLogger('library').warning('of a library')
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
raise KeyError('boom')
"""
    with run_log.opened(str(tmp_path)), run_log.stage("align"):
        workers = [start_worker(f"train {rank}", code) for rank in range(2)]
        assert [worker.wait(60) for worker in workers] == [1, 1]
    text, shown = (tmp_path / "run.log").read_text(), capsys.readouterr().err.splitlines()
    for rank in range(2):
        head = rf" train-{rank}@\S+:\d+ align: "
        for level, message in (
            ("INFO", "started"),
            ("WARNING", "checkpoint 2 is damaged, using checkpoint 1"),
            ("WARNING", r"\[python\] UserWarning: of python"),
            ("WARNING", r"\[library\] of a library"),
            ("ERROR", "uncaught ZeroDivisionError: division by zero\n    Traceback"),
            ("WARNING", "stopped by KeyError: 'boom'\n    Traceback"),
        ):
            assert re.search(level + head + message, text), message
    # What both say is shown once, without tracebacks and without what libraries say.
    assert len(shown) == 4
    assert re.fullmatch(r"warning: \(train-[01]\) checkpoint 2 is damaged, using checkpoint 1", shown[0])
    assert {re.sub(r"train-\d", "train", line) for line in shown[1:]} == {
        "error: (train) uncaught ZeroDivisionError: division by zero",
        "warning: (train) stopped by KeyError: 'boom'",
        "error: (train) uncaught KeyError: 'boom'",  # it then ended the process, which a Ray worker's task does not
    }


def test_a_killed_worker_loses_nothing_that_it_had_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with run_log.opened(str(tmp_path)):
        worker = start_worker(
            "train-0", "import os, signal; run_log.LOGGER.warning('last words'); os.kill(os.getpid(), 9)"
        )
        assert worker.wait(60) == -9
    assert "train-0" in (tmp_path / "run.log").read_text()
    assert capsys.readouterr().err == "warning: (train-0) last words\n"


def test_pythons_warnings_and_other_libraries_leave_the_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hooks = warnings.showwarning, threading.excepthook
    before = list(logging.getLogger().handlers)
    with warnings.catch_warnings(), run_log.opened(str(tmp_path)):
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
        logging.getLogger("some.library").error("its own trouble")
    text = (tmp_path / "run.log").read_text()
    assert "[python] UserWarning: look out" in text
    assert "[some.library] its own trouble" in text
    assert capsys.readouterr().err == ""
    assert (warnings.showwarning, threading.excepthook) == hooks
    assert logging.getLogger().handlers == before


def test_without_a_target_a_worker_changes_nothing():
    before = list(LOGGER.handlers)
    assert run_log.target() is None
    with pytest.raises(ValueError, match="own"), run_log.in_worker(None, "train-0"):
        raise ValueError("own")
    assert LOGGER.handlers == before


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> str:
    """A run directory that is no local path: Arrow over fsspec's memory file system, under a scheme of the test's own.

    It shows that nothing appends or renames there; that S3 and GCS behave so is not shown by it.
    """
    memory, real = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory"))), storage.filesystem
    for module in (storage, storage.files):
        monkeypatch.setattr(
            module, "filesystem", lambda uri: (memory, uri[7:]) if uri.startswith("store://") else real(uri)
        )
    memory.create_dir("/bucket")
    yield "store://bucket/run"
    memory.delete_dir("/bucket")


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(LOGGER.name, level, "", 0, message, None, None)


def worker_handler(run_dir: str, role: str, pid: int, host: str = "elsewhere") -> log_files.Handler:
    who = Who(role, host, pid)
    handler = log_files.handler(run_dir, log_files.HOST, who)
    handler.setFormatter(log_lines.RunLogFormatter("human", who, lambda: "sft"))
    return handler


def test_on_an_object_store_every_process_keeps_a_file_and_the_driver_joins_them(
    remote: str, capsys: pytest.CaptureFixture[str]
):
    for start in range(2):
        with run_log.opened(remote):
            LOGGER.info("start %d", start)
            for rank in range(2):
                handler = worker_handler(remote, f"train-{rank}", 100 + rank)
                handler.handle(record(f"step of {rank}"))
                handler.handle(record("damaged\nlines", logging.WARNING))
                handler.close()
            LOGGER.info("end %d", start)
    assert storage.list_files(remote) == ["run.log"]
    kept = log_lines.records(storage.read_bytes(storage.join(remote, "run.log")).decode())
    assert len(kept) == 2 * 6
    assert kept == sorted(kept, key=log_lines.time_of)
    assert sum("damaged\n    lines" in text for text in kept) == 4
    assert capsys.readouterr().err.splitlines() == [
        "start 0", "end 0", "warning: (train-0) damaged", "start 1", "end 1", "warning: (train-0) damaged"
    ]  # fmt: skip


def test_a_join_that_was_cut_short_is_done_again_without_doubles(remote: str):
    handler = worker_handler(remote, "train-0", 7)
    handler.handle(record("only once"))
    handler.close()
    (part,) = [storage.join(remote, name) for name in storage.list_files(remote)]
    content = storage.read_bytes(part)
    log_files.join(remote)
    storage.write_bytes(part, content)  # as if the driver had been killed before it removed the part
    log_files.join(remote)
    assert storage.list_files(remote) == ["run.log"]
    assert storage.read_bytes(storage.join(remote, "run.log")) == content


def test_what_a_process_may_lose_on_an_object_store_is_bounded(remote: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_files, "_SECONDS", 3600.0)
    handler = worker_handler(remote, "train-0", 7)
    for number in range(99):
        handler.handle(record(str(number)))
    assert storage.list_files(remote) == []
    handler.handle(record("the hundredth"))
    (part,) = storage.list_files(remote)
    assert storage.read_bytes(storage.join(remote, part)).count(b"\n") == 100
    handler.handle(record("look", logging.WARNING))
    assert storage.read_bytes(storage.join(remote, part)).count(b"\n") == 101
    handler.close()


def test_another_machine_on_a_shared_folder_does_not_touch_run_log(tmp_path: Path):
    """Over NFS two machines that append to one file overwrite each other."""
    with run_log.opened(str(tmp_path)):
        handler = worker_handler(str(tmp_path), "train-0", 7)
        handler.handle(record("from afar"))
        handler.close()
        assert [path.parent.name for path in tmp_path.rglob("train-0-elsewhere-7-*.log")] == ["logs"]
        LOGGER.info("from here")
    assert [line.rpartition(": ")[2] for line in heads(tmp_path)] == ["from here", "from afar"]
    assert not (tmp_path / "logs").exists()


def test_a_log_that_cannot_be_written_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run.log").symlink_to("/dev/full")
    with run_log.opened(str(tmp_path)):
        LOGGER.info("one")
        LOGGER.info("two")
        assert "No space left on device" in (run_log.lost() or "")
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "missing" not in line] == ["one", "two"]
    assert len(shown) == 3
