"""Requests to stop: SIGTERM and Ctrl-C end a run so that the same command goes on later.

Outside of training a request raises at once: finished units and stages are stored already. Training asks for time to
write a checkpoint first (`deferred`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rosepo_ray.errors import Stopped

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_noted: list[int] = []
_deferring = False


@contextmanager
def handled() -> Iterator[None]:
    """Take over SIGTERM and SIGINT for the length of a job, in the main thread."""
    before = {number: signal.signal(number, _handle) for number in _NAMES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _noted.clear()


def _handle(number: int, frame: FrameType | None) -> None:
    _noted.append(number)
    if not _deferring or len(_noted) > 1:  # who asks again does not want to wait
        raise stopped()


def stopped(detail: str = "") -> Stopped:
    """The error that ends a job on the request noted last."""
    number = _noted[-1] if _noted else signal.SIGTERM
    error = Stopped(f"stopped by {_NAMES[signal.Signals(number)]}{detail and ', ' + detail}")
    error.exit_code = 128 + number
    return error


def raise_if_asked() -> None:
    """Raises Stopped where a request was noted: between stages and units, and where a library swallowed the first."""
    if _noted:
        raise stopped()


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, the first request is only noted; the yielded function tells whether there was one."""
    global _deferring
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals go to the main thread
        return
    _deferring = True
    try:
        yield lambda: bool(_noted)
    finally:
        _deferring = False
