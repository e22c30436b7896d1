"""One readable log per run, by standard logging. Each process keeps a file of its own below `RUN/logs/`, JSON lines;
the driver joins them to `run.log`, in order of time, when the job ends (or starts again after a kill).

The driver opens the log with :func:`opened`; what it hands to a worker is :func:`target`; a worker begins with
:func:`in_worker`. What workers warn of reaches the driver's terminal when their stage ends, read from their files.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError, short
from rosepo_ray.process.quiet import quiet_libraries

Style = Literal["human", "json"]
NAME, PARTS = "run.log", "logs"
_OWN, _ROOT = logging.getLogger("rosepo_ray"), logging.getLogger()
_RECORDS = 100  # what a process that is killed may lose of its log on an object store, warnings excepted


@dataclass(frozen=True)
class Target:
    """Where a worker's lines belong. Travels to workers: small, frozen, picklable."""

    run_dir: str
    stage: str | None = None


_target: Target | None = None
_part: _Part | None = None
_terminal: _Terminal | None = None
_excepthook, _thread_hook, _level = sys.excepthook, threading.excepthook, _OWN.level


def target() -> Target | None:
    """What a stage hands to its workers for :func:`in_worker`: log and current stage. None where no log is open."""
    return _target


def lost() -> str | None:
    """Why run.log lacks lines, or None: a full disk ends no run by its log alone."""
    return None if _part is None else _part.lost


@contextmanager
def stage(name: str | None) -> Iterator[None]:
    """Lines within are marked with the stage; at its end the terminal shows what its workers warned of."""
    global _target
    before = _target
    _target = before and replace(before, stage=name)
    try:
        yield
    finally:
        _target = before
        if _terminal is not None:
            _terminal.show_workers()


@contextmanager
def opened(run_dir: str, style: Style = "human") -> Iterator[None]:
    """Open the run's log in the driver: the terminal, and `run.log` behind what earlier starts left there."""
    global _terminal
    _join(run_dir, style)  # what a start that was killed left
    _terminal = _Terminal(run_dir, style)
    _open(Target(run_dir), "job")
    _OWN.addHandler(_terminal)
    try:
        yield
    finally:
        _terminal.show_workers()
        _OWN.removeHandler(_terminal)
        _terminal = None
        _close()
        _join(run_dir, style)


def in_worker(target: Target | None, role: str) -> Any:
    """Call once where a worker begins; `role` names it (`train-0`). Without a target (a library user) nothing changes.

    Used as `with in_worker(...):` it also logs the exception that ends the block, with its traceback: Ray restarts
    training workers, and the driver sees only the last failure.
    """
    if target is None:
        return nullcontext()
    _open(target, role)
    return _ending()


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except RosepoError as error:
        _OWN.info("stopped by: %s", error)  # the driver tells it
        raise
    except Exception as error:
        _OWN.warning("stopped by %s", short(error), exc_info=error)
        raise
    finally:
        if _part is not None:
            _part.flush()


def _open(here: Target, role: str) -> None:
    global _target, _part
    _close()
    _target, _part = here, _Part(here.run_dir, re.sub(r"[^\w.-]+", "-", role))
    _OWN.propagate = False
    _OWN.setLevel(logging.INFO)
    for logger in (_OWN, _ROOT):
        logger.addHandler(_part)
    quiet_libraries()
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda end: _uncaught(end.exc_type, end.exc_value, end.exc_traceback)


def _close() -> None:
    global _target, _part
    if _part is None:
        return
    for logger in (_OWN, _ROOT):
        logger.removeHandler(_part)
    _part.close()
    _OWN.propagate = True
    _OWN.setLevel(_level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = _excepthook, _thread_hook
    _target = _part = None


def _uncaught(kind: type[BaseException], error: BaseException | None, where: Any) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        _OWN.error("uncaught %s", short(error), exc_info=(kind, error, where))


def _is_own(name: str) -> bool:
    return name.partition(".")[0] == _OWN.name


class _Part(logging.Handler):
    """This process's file. A local one is appended to; an object store cannot append, so there it is written whole at a
    warning, every hundred records and at the end. A failure to write ends no run: it is said once, and kept."""

    def __init__(self, run_dir: str, role: str) -> None:
        super().__init__()
        self.who = {"role": role, "host": socket.gethostname(), "pid": os.getpid()}
        name = "-".join(map(str, [*self.who.values(), time.time_ns() // 1_000_000]))
        self.uri = storage.join(run_dir, PARTS, f"{name}.log")
        self.lost: str | None = None
        self._lines: list[str] = []
        self._file: TextIO | None = None
        if storage.is_local(run_dir):
            path = Path(storage.filesystem(self.uri)[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="ascii")

    def filter(self, record: logging.LogRecord) -> bool:
        return _is_own(record.name) or record.levelno >= logging.WARNING

    def format(self, record: logging.LogRecord) -> str:
        values = {"time": _time(record), "level": record.levelname, **self.who, "stage": _target and _target.stage}
        values |= {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            values["exception"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(values) + "\n"

    def emit(self, record: logging.LogRecord) -> None:
        with self._kept():
            self._lines.append(self.format(record))
            if self._file or record.levelno >= logging.WARNING or len(self._lines) % _RECORDS == 0:
                self._save()

    def _save(self) -> None:
        if self._file:
            self._file.write("".join(self._lines))
            self._lines.clear()
            self._file.flush()
        elif self._lines:
            storage.write_bytes(self.uri, "".join(self._lines).encode())

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.lost is None:
                self.lost = str(error)
                sys.stderr.write(f"warning: lines are missing in the run's log from here on: {error}\n")

    def flush(self) -> None:
        with self._kept():
            self._save()

    def close(self) -> None:
        self.flush()
        if self._file:
            with suppress(OSError):
                self._file.close()
        self._lines, self._file = [], None  # logging closes what it knows of once more at exit
        super().close()


class _Terminal(logging.Handler):
    """The driver's messages, and its workers' warnings, on standard error, without tracebacks."""

    def __init__(self, run_dir: str, style: Style) -> None:
        super().__init__()
        self._run_dir, self._style = run_dir, style
        self._read: dict[str, int] = {}
        self._shown: set[tuple[str, str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self._show(_time(record), record.levelname, record.getMessage())

    def _show(self, time: str, level: str, message: str) -> None:
        if self._style == "json":
            message = json.dumps({"time": time, "level": level, "message": message}, ensure_ascii=False)
        elif level not in ("DEBUG", "INFO"):
            message = f"{level.lower()}: {message}"
        sys.stderr.write(message + "\n")  # looked up each time: a progress bar may stand in for it

    def show_workers(self) -> None:
        """What workers have warned of since the last time, each distinct message once."""
        try:
            for uri in _parts(self._run_dir):
                found = _records(uri) if _part is None or uri != _part.uri else []
                for r in found[self._read.get(uri, 0) :]:
                    known = (r["level"], r["message"])
                    if r["level"] != "INFO" and _is_own(r["logger"]) and known not in self._shown:
                        self._shown.add(known)
                        self._show(r["time"], r["level"], f"({r['role']}) {r['message']}")
                self._read[uri] = len(found)
        except Exception as error:  # a storage that stumbles ends no run
            sys.stderr.write(f"warning: the workers' log cannot be read now ({short(error)})\n")


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parts(run_dir: str) -> list[str]:
    folder = storage.join(run_dir, PARTS)
    return [storage.join(folder, name) for name in storage.list_files(folder)]


def _records(uri: str) -> list[dict[str, Any]]:
    """The records of one part; of a line that a kill cut short nothing is left."""
    found = []
    for line in storage.read_bytes(uri).decode(errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _text(record: dict[str, Any], style: Style) -> str:
    if style == "json":
        return json.dumps(record)
    message = record["message"] if _is_own(record["logger"]) else f"[{record['logger']}] {record['message']}"
    head = "{time} {level} {role}@{host}:{pid} ".format(**record) + f"{record['stage'] or '-'}: {message}"
    # What begins at the margin is a record's head.
    return "\n    ".join(f"{head}\n{record.get('exception', '')}".strip().splitlines())


def _join(run_dir: str, style: Style) -> None:
    """Move all records of the parts to `run.log`. Killed halfway it is done again, and adds no record twice."""
    try:
        parts, uri = _parts(run_dir), storage.join(run_dir, NAME)
        if not parts:
            return
        before = storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else ""
        known = set(before.splitlines())
        records = sorted((record for part in parts for record in _records(part)), key=lambda record: record["time"])
        texts = [text for text in (_text(record, style) for record in records) if text.split("\n")[0] not in known]
        storage.write_bytes(uri, "".join([before, *(f"{text}\n" for text in texts)]).encode(errors="replace"))
        storage.remove_folder(storage.join(run_dir, PARTS))
    except Exception as error:  # the next start joins them; a run must not end by its log
        sys.stderr.write(f"warning: the log stays in {run_dir}/{PARTS} until the next start joins it: {short(error)}\n")
