"""The item of a given rank in a sorted whole that lies in many partitions, found by counting instead of collecting.

A key is (time, tie, user id). Its two integers are narrowed by histograms, one round of counting over all partitions at
a time, until few keys are left; those are fetched and sorted. The result is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 1 << 12
FETCH = 1 << 17
"""Keys that one place may hold at a time."""


@dataclass(frozen=True, order=True)
class Key:
    """The place of an interaction in the global order; distinct after duplicates are dropped."""

    timestamp: int
    tie: int
    user_id: str


@dataclass(frozen=True)
class Window:
    """Keys with low <= time <= high, and of those only ties in [tie_low, tie_high] where a window is one time wide."""

    low: int
    high: int
    tie_low: int
    tie_high: int

    def mask(self, times: np.ndarray, ties: np.ndarray) -> np.ndarray:
        return (times >= self.low) & (times <= self.high) & (ties >= self.tie_low) & (ties <= self.tie_high)

    def span(self) -> tuple[int, int]:
        """The range that the next round divides: times, then ties."""
        return (self.low, self.high) if self.low < self.high else (self.tie_low, self.tie_high)

    def narrowed(self, low: int, high: int) -> Window:
        if self.low < self.high:
            return Window(low, high, self.tie_low, self.tie_high)
        return Window(self.low, self.high, low, high)

    @property
    def single(self) -> bool:
        return self.low == self.high and self.tie_low == self.tie_high


def width(low: int, high: int) -> int:
    """Values in one bin when [low, high] is cut into at most BINS bins."""
    return (high - low) // BINS + 1


def histogram(times: np.ndarray, ties: np.ndarray, window: Window) -> np.ndarray:
    """Counts [BINS] of the keys of one partition inside `window`, over the range that `window.span` gives."""
    low, high = window.span()
    inside = window.mask(times, ties)
    chosen = (times if window.low < window.high else ties)[inside]
    # Unsigned differences are right over the whole range of int64.
    offsets = chosen.astype(np.uint64) - np.array(low, np.int64).astype(np.uint64)
    bins = (offsets // np.uint64(width(low, high))).astype(np.int64)
    return np.bincount(bins, minlength=BINS)


def find(
    rank: int,
    window: Window,
    total: int,
    count: Callable[[Window], np.ndarray],
    fetch: Callable[[Window], list[Key]],
) -> Key:
    """The key of `rank` (from 0) among `total` keys inside `window`.

    `count` adds `histogram` over all partitions; `fetch` collects the keys inside a window.
    """
    remaining = total
    while remaining > FETCH and not window.single:
        low, high = window.span()
        step = width(low, high)
        before = np.concatenate([[0], np.cumsum(count(window))])
        chosen = int(np.searchsorted(before, rank, side="right")) - 1
        rank -= int(before[chosen])
        remaining = int(before[chosen + 1] - before[chosen])
        start = low + chosen * step
        window = window.narrowed(start, min(high, start + step - 1))
    return sorted(fetch(window))[rank]


def before(times: np.ndarray, ties: np.ndarray, users: np.ndarray, key: Key) -> np.ndarray:
    """Mask [N] of the keys that come before `key`. `users` [N] holds whether the user id is below key.user_id."""
    return (times < key.timestamp) | ((times == key.timestamp) & ((ties < key.tie) | ((ties == key.tie) & users)))
