"""Progress on the driver: on a terminal a bar with rate and remaining time, elsewhere one plain line a minute.

Training workers leave their newest step in a small file of the stage's folder, which the driver reads: that needs no
process more, and works wherever the checkpoints do.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.process.repeating import repeating

LOGGER = logging.getLogger(__name__)
_SAY_SECONDS = 60.0
_RATE_SECONDS = 600.0
"""The stretch of time over which the rate is taken: a unit of scoring may take minutes."""
_counting: set[str] = set()


class Counter:
    """How far one stage's work is. Rate and remaining time are rich's, on a terminal or not."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.note = name, total, 0, ""
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
            speed_estimate_period=_RATE_SECONDS,
        )
        self._task = self.bar.add_task(name, total=total, note="", rate="")

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note
        speed = self.bar.tasks[0].speed
        self.bar.update(self._task, completed=done, note=note, rate=f"{speed:.3g}/s" if speed else "")

    def __str__(self) -> str:
        left = self.bar.tasks[0].time_remaining
        told = [f"{self.name} {self.done}/{self.total}", self.note, "" if left is None else f"{_words(left)} left"]
        return ", ".join(filter(None, told))


def _words(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


@contextmanager
def counting(name: str, total: int) -> Iterator[Counter]:
    """A counter that is shown for the length of the `with`."""
    counter = Counter(name, total)
    _counting.add(name)
    try:
        with counter.bar if sys.stderr.isatty() else repeating(_SAY_SECONDS, lambda: LOGGER.info("%s", counter)):
            yield counter
    finally:
        _counting.discard(name)


@contextmanager
def sign_of_life(name: str) -> Iterator[None]:
    """One line a minute while nothing is counted, so that nobody takes a long stage for a dead one."""
    began = time.monotonic()

    def say() -> None:
        if not _counting:
            LOGGER.info("%s, %s so far", name, _words(time.monotonic() - began))

    with repeating(_SAY_SECONDS, say):
        yield


class Reporter:
    """What a training worker calls each step; every few seconds it writes the file at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri, self.pause = uri, 1.0 if storage.is_local(uri) else 10.0
        self._last = 0.0

    def update(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._last >= self.pause:
            self._last = now
            with suppress(OSError, RosepoError):  # no training ends by this
                storage.write_json(self.uri, {"step": step, "loss": loss})


@contextmanager
def reported(name: str, total: int, uri: str) -> Iterator[Reporter]:
    """A reporter for the training workers, while the driver shows what it says; the file at `uri` goes with it."""
    reporter = Reporter(uri)

    def look() -> None:
        with suppress(FileNotFoundError):
            newest = storage.read_json(uri)
            counter.update(newest["step"], f"loss {newest['loss']:.2f}")

    storage.remove_file(uri)  # a killed run's
    with counting(name, total) as counter, repeating(reporter.pause, look):
        try:
            yield reporter
        finally:
            with suppress(OSError):
                storage.remove_file(uri)
