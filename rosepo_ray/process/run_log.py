"""One readable log per run: lines on the terminal, and `run.log` in the run directory, from workers too.

The driver opens the log with :func:`run_log`; what it hands to a worker is :func:`target`; a worker begins with
:func:`in_worker`. From then on both only call `LOGGER.info` and `LOGGER.warning`. The driver shows the workers'
warnings on the terminal, read from what they wrote, so that a worker that is killed right after loses nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TextIO

from rosepo_ray.errors import RosepoError, short
from rosepo_ray.process import log_files
from rosepo_ray.process.log_lines import RunLogFormatter, Style, TerminalFormatter, Who

LOGGER = logging.getLogger("rosepo_ray")
_PYTHON = logging.getLogger("python")
"""Warnings of Python itself, which go to run.log and not to the terminal."""
_NOISY = ("ray", "ray.data", "ray.train", "ray.serve", "transformers", "mlflow")


@dataclass(frozen=True)
class Target:
    """Where a worker's lines belong. Travels to workers: small, frozen, picklable."""

    run_dir: str
    style: Style
    host: str
    """The driver's machine: only processes there append to the same file."""
    stage: str | None = None


_target: Target | None = None
_file: log_files.Handler | None = None
_before: dict[logging.Logger, list[logging.Handler]] = {}


def target() -> Target | None:
    """What a stage hands to its workers for :func:`in_worker`: log and current stage. None where no log is open."""
    return _target


@contextmanager
def stage(name: str | None) -> Iterator[None]:
    """Lines within are marked with the stage."""
    global _target
    before = _target
    if before is not None:
        _target = replace(before, stage=name)
    try:
        yield
    finally:
        _target = before


@contextmanager
def opened(run_dir: str, style: Style = "human") -> Iterator[None]:
    """Open the run's log in the driver: the terminal and `run.log`, appended to what earlier starts left there."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(TerminalFormatter(style, sys.stderr.isatty()))
    _join(run_dir)  # what a start that was killed left
    watch = log_files.Watch(run_dir, lambda line: _show(terminal, line))
    _open(Target(run_dir, style, log_files.HOST), "job", [terminal])
    watch.start()
    try:
        yield
    finally:
        watch.stop()
        _close()
        _join(run_dir)


def _join(run_dir: str) -> None:
    try:
        log_files.join(run_dir)
    except Exception as error:  # the next start joins them; a run must not end by its log
        sys.stderr.write(f"warning: the logs below {run_dir}/{log_files.PARTS} stay apart for now: {short(error)}\n")


def quiet() -> None:
    """Ray, transformers and MLflow announce a great deal; what matters is raised. Importing ray undoes it."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def lost() -> str | None:
    """Why run.log lacks lines, or None: a full disk ends no run by its log alone."""
    return None if _file is None else _file.lost


def in_worker(target: Target | None, role: str) -> InWorker:
    """Call once where a worker begins; `role` names it (`train-0`). Without a target (a library user) nothing changes.

    Used as `with in_worker(...):` it also logs the exception that ends the block, with its traceback: Ray restarts
    training workers, and the driver sees only the last failure.
    """
    if target is not None:
        _open(target, role, [])
        sys.excepthook = _uncaught
    return InWorker(target)


class InWorker:
    """A worker's share of the log, as a context."""

    def __init__(self, target: Target | None) -> None:
        self._logs = target is not None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._logs:
            return
        if isinstance(error, RosepoError):
            LOGGER.info("stopped by: %s", error)  # the driver tells it
        elif isinstance(error, Exception):
            LOGGER.warning("stopped by %s", short(error), exc_info=error)
        if _file is not None:
            _file.flush()


def _open(here: Target, role: str, shown: list[logging.Handler]) -> None:
    global _target, _file
    _close()
    who = Who(role)
    _file = log_files.handler(here.run_dir, here.host, who)
    _file.setFormatter(RunLogFormatter(here.style, who, lambda: _target.stage if _target is not None else None))
    _target = here
    for logger, handlers in ((LOGGER, [*shown, _file]), (_PYTHON, [_file])):
        _before[logger] = logger.handlers
        logger.handlers, logger.propagate = list(handlers), False
        logger.setLevel(logging.INFO)
    root = logging.getLogger()
    _before[root] = list(root.handlers)
    root.addHandler(_Warnings(_file))
    quiet()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = _python_warning
    threading.excepthook = lambda end: _uncaught(end.exc_type, end.exc_value, end.exc_traceback)


class _Warnings(logging.Handler):
    """Other libraries' warnings go to run.log."""

    def __init__(self, file: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        self.file.handle(record)


_showwarning, _thread_hook = warnings.showwarning, threading.excepthook


def _close() -> None:
    global _target, _file
    for logger, handlers in _before.items():
        logger.handlers = handlers
    _before.clear()
    if _file is not None:
        _file.close()
    _target = _file = None
    warnings.showwarning, threading.excepthook = _showwarning, _thread_hook


def _python_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _PYTHON.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _uncaught(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        LOGGER.error("uncaught %s", short(error), exc_info=(kind, error, where))


def _show(terminal: logging.StreamHandler[Any], line: log_files.Line) -> None:
    """A worker's warning, on the driver's terminal."""
    record = logging.LogRecord(
        LOGGER.name, logging.getLevelName(line.level), "", 0, f"({line.role}) {line.message}", None, None
    )
    terminal.handle(record)
