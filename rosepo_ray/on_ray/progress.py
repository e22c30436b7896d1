"""Progress: one line per stage, redrawn on a terminal, sparse elsewhere; training workers report through an actor."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_POLL_SECONDS = 1.0


class Line:
    """One stage's progress with rate and remaining time. Off a terminal it prints nothing."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self._first: tuple[float, int] | None = None
        self._live = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        self.done = done
        if self._live:
            sys.stderr.write(f"\r\033[K  {self.name}: {self._state(now)} {note}")
            sys.stderr.flush()

    def _state(self, now: float) -> str:
        began, at = self._first or (now, 0)
        rate = (self.done - at) / (now - began) if now > began else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 else ""
        return f"{self.done}/{self.total} ({rate:.1f}/s{left})"

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


@contextmanager
def counting(name: str, total: int) -> Iterator[Line]:
    line = Line(name, total)
    try:
        yield line
    finally:
        line.close()


class _Board:
    """The actor that holds the newest step of a training run."""

    def __init__(self) -> None:
        self.state: tuple[int, float] = (0, 0.0)

    def put(self, step: int, loss: float) -> None:
        self.state = (step, loss)

    def get(self) -> tuple[int, float]:
        return self.state


class BoardHandle:
    """What a worker calls each step; sends at most one message a second."""

    def __init__(self, actor: Any) -> None:
        self.actor, self._last = actor, 0.0

    def update(self, step: int, loss: float) -> None:
        if self.actor is not None and time.monotonic() - self._last > _POLL_SECONDS:
            self._last = time.monotonic()
            self.actor.put.remote(step, loss)


@contextmanager
def board(name: str, total: int) -> Iterator[BoardHandle]:
    """A handle for the workers, while the driver redraws the line. Off a terminal no actor is started."""
    import ray

    if not sys.stderr.isatty():
        yield BoardHandle(None)
        return
    actor = ray.remote(num_cpus=0)(_Board).remote()
    line, stop = Line(name, total), threading.Event()

    def draw() -> None:
        while not stop.wait(_POLL_SECONDS):
            step, loss = ray.get(actor.get.remote())
            line.update(step, f"loss {loss:.4f}")

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield BoardHandle(actor)
    finally:
        stop.set()
        thread.join()
        line.close()
        ray.kill(actor)
