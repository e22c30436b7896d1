"""The run's log: what a line looks like, a file per process, object stores, and what the terminal shows."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from rosepo_ray import storage
from rosepo_ray.process import run_log

LOGGER = logging.getLogger("rosepo_ray.of.the.test")
WORKER = """
import logging, pickle, sys, warnings
from rosepo_ray.process import run_log
LOGGER = logging.getLogger("rosepo_ray.somewhere")
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
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_json_lines_hold_the_traceback_as_text_and_the_terminal_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with run_log.opened(str(tmp_path), "json"):
        try:
            raise ValueError("bööm\udc80")  # half a surrogate pair, as a broken log may have it
        except ValueError:
            LOGGER.error("it failed", exc_info=True)
    (record,) = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert {name: record[name] for name in ("level", "role", "stage", "logger", "message")} == {
        "level": "ERROR",
        "role": "job",
        "stage": None,
        "logger": "rosepo_ray.of.the.test",
        "message": "it failed",
    }
    assert record["exception"].startswith("Traceback")
    assert record["exception"].endswith("ValueError: bööm\udc80")
    shown = json.loads(capsys.readouterr().err)
    assert shown.keys() == {"time", "level", "message"}


def test_a_second_start_appends(tmp_path: Path):
    for number in range(2):
        with run_log.opened(str(tmp_path)):
            LOGGER.info("start %d", number)
    assert [line.rpartition(": ")[2] for line in heads(tmp_path)] == ["start 0", "start 1"]


def test_what_several_processes_say_is_joined_whole_and_in_order_of_time(tmp_path: Path):
    """Three workers and the driver, 300 records of up to 20,000 characters each: longer than a page."""
    code = "for n in range(300): LOGGER.info('%d %s end', n, sys.argv[2] * (1 + 17 * n % 5000))"
    with run_log.opened(str(tmp_path)), run_log.stage("sft"):
        workers = [start_worker(role, code) for role in ("aaaa", "bbbb", "cccc")]
        for number in range(300):
            LOGGER.info("driver %d", number)
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        assert len(list((tmp_path / "logs").iterdir())) == 4  # over NFS, who shares a file overwrites the other
    found = heads(tmp_path)
    for role in ("aaaa", "bbbb", "cccc"):
        mine = [line.partition(" sft: ")[2] for line in found if f" {role}@" in line]
        assert mine == [f"{n} {role * (1 + 17 * n % 5000)} end" for n in range(300)]
    assert len(found) == 4 * 300
    times = [line.split()[0] for line in found]
    assert times == sorted(times)


def test_workers_warnings_and_failures_reach_the_terminal_and_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code = """
import threading
LOGGER.info('started')
LOGGER.warning('checkpoint 2 is damaged, using checkpoint 1')
warnings.warn('of python')
logging.getLogger('library').warning('of a library')
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
raise KeyError('boom')
"""
    with run_log.opened(str(tmp_path)):
        with run_log.stage("align"):
            workers = [start_worker(f"train {rank}", code) for rank in range(2)]
            assert [worker.wait(60) for worker in workers] == [1, 1]
        shown = capsys.readouterr().err.splitlines()  # when the stage has ended, not only the job
    text = (tmp_path / "run.log").read_text()
    for rank in range(2):
        head = rf" train-{rank}@\S+:\d+ align: "
        for level, message in (
            ("INFO", "started"),
            ("WARNING", "checkpoint 2 is damaged, using checkpoint 1"),
            ("WARNING", r"\[py.warnings\] .*UserWarning: of python"),
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
    assert capsys.readouterr().err == ""


def test_a_killed_worker_loses_nothing_that_it_had_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = "import os, signal; LOGGER.info('words'); LOGGER.warning('last words'); os.kill(os.getpid(), 9)"
    with run_log.opened(str(tmp_path)):
        worker = start_worker("train-0", code)
        assert worker.wait(60) == -9
    assert [line.rpartition(": ")[2] for line in heads(tmp_path)] == ["words", "last words"]
    assert capsys.readouterr().err == "warning: (train-0) last words\n"


def test_pythons_warnings_and_other_libraries_leave_the_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hooks = warnings.showwarning, threading.excepthook, sys.excepthook
    before = list(logging.getLogger().handlers)
    with warnings.catch_warnings(), run_log.opened(str(tmp_path)):
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
        logging.getLogger("some.library").error("its own trouble")
        logging.getLogger("some.library").info("its own talk")
    text = (tmp_path / "run.log").read_text()
    assert "UserWarning: look out" in text
    assert "[some.library] its own trouble" in text
    assert "talk" not in text
    assert capsys.readouterr().err == ""
    assert (warnings.showwarning, threading.excepthook, sys.excepthook) == hooks
    assert logging.getLogger().handlers == before


def test_without_a_target_a_worker_changes_nothing():
    before = list(logging.getLogger("rosepo_ray").handlers)
    assert run_log.target() is None
    with pytest.raises(ValueError, match="own"), run_log.in_worker(None, "train-0"):
        raise ValueError("own")
    assert logging.getLogger("rosepo_ray").handlers == before


@pytest.fixture
def remote() -> Iterator[str]:
    """A run directory in fsspec's memory: nothing appends or renames there. That S3 and GCS behave so is not shown."""
    yield "memory://bucket/run"
    fsspec.filesystem("memory").store.clear()


def part(run_dir: str, role: str) -> run_log._Part:
    return run_log._Part(run_dir, role)


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(LOGGER.name, level, "", 0, message, None, None)


def test_on_an_object_store_the_driver_joins_them_too(remote: str, capsys: pytest.CaptureFixture[str]):
    for start in range(2):
        with run_log.opened(remote):
            LOGGER.info("start %d", start)
            for rank in range(2):
                handler = part(remote, f"train-{rank}")
                handler.handle(record(f"step of {rank}"))
                handler.handle(record("damaged\nlines", logging.WARNING))
                handler.close()
            LOGGER.info("end %d", start)
    assert storage.list_files(remote) == ["run.log"]
    lines = storage.read_bytes(storage.join(remote, "run.log")).decode().splitlines()
    kept = [line for line in lines if not line.startswith(" ")]
    assert len(kept) == 2 * 6
    assert [line.split()[0] for line in kept] == sorted(line.split()[0] for line in kept)
    assert lines.count("    lines") == 4
    assert capsys.readouterr().err.splitlines() == [
        "start 0", "end 0", "warning: (train-0) damaged", "lines",
        "start 1", "end 1", "warning: (train-0) damaged", "lines",
    ]  # fmt: skip


@pytest.mark.parametrize("style", ["human", "json"])
def test_a_join_that_was_cut_short_is_done_again_without_doubles(remote: str, style: run_log.Style):
    handler = part(remote, "train-0")
    handler.handle(record("only\nonce"))
    handler.close()
    content = storage.read_bytes(handler.uri)
    run_log._join(remote, style)
    joined = storage.read_bytes(storage.join(remote, "run.log"))
    # As if the driver had been killed before it removed the part, which has a torn line besides.
    storage.write_bytes(handler.uri, content + b'{"time": "2026-')
    run_log._join(remote, style)
    assert storage.list_files(remote) == ["run.log"]
    assert storage.read_bytes(storage.join(remote, "run.log")) == joined
    assert joined.count(b"once") == 1


def test_what_a_process_may_lose_on_an_object_store_is_bounded(remote: str):
    handler = part(remote, "train-0")
    for number in range(99):
        handler.handle(record(str(number)))
    assert storage.list_files(remote) == []
    handler.handle(record("the hundredth"))
    assert storage.read_bytes(handler.uri).count(b"\n") == 100
    handler.handle(record("look", logging.WARNING))
    assert storage.read_bytes(handler.uri).count(b"\n") == 101
    handler.handle(record("bye"))
    handler.close()
    assert storage.read_bytes(handler.uri).count(b"\n") == 102


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path: Path):
    """A file-size limit stands in for the full disk: the kernel refuses the write in the same place."""
    code = """
import logging, resource, sys
from rosepo_ray.process import run_log
with run_log.opened(sys.argv[1]):
    logging.getLogger("rosepo_ray").info("one")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
    for word in ("two", "three"):
        logging.getLogger("rosepo_ray").info(word)
    assert "File too large" in run_log.lost()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stderr.splitlines()
    assert [line for line in shown if not line.startswith("warning")] == ["one", "two", "three"]
    assert sum("lines are missing" in line for line in shown) == 1
    with run_log.opened(str(tmp_path)):  # the next start, with room again, finds what could be written
        pass
    assert heads(tmp_path)[0].endswith(": one")
