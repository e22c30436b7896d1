"""Which clocks the numbers of a time column are of: seconds beside milliseconds have no common order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rosepo_ray.data.reading import parse_columns

CLOCKS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_FIRST = 1e8
"""From here on (1973 in seconds) a number tells its clock: each has a thousand times as many as the one before."""
_TOLERANCE = 4.0
"""Two ranges are of the same years where, brought to one clock, they are no further apart than by this factor."""

Spans = list[list[float]]
"""Smallest and largest number by clock; empty where there is none."""


def spans(times_N: np.ndarray, kinds_N: np.ndarray) -> Spans:
    """Of times as `parse_columns.times` gives them, dates left out."""
    numbers = times_N / np.where(kinds_N == parse_columns.FRACTION, parse_columns.FRACTION_SCALE, 1)
    numbers = numbers[(kinds_N != parse_columns.DATE) & (numbers >= _FIRST)]
    clocks = np.floor(np.log10(numbers / _FIRST) / 3).clip(max=len(CLOCKS) - 1)
    found = [numbers[clocks == clock] for clock in range(len(CLOCKS))]
    return [[float(n.min()), float(n.max())] if len(n) else [] for n in found]


def two_clocks(parts: Iterable[Spans]) -> tuple[str, str] | None:
    """Two clocks that share the years of one log, whose `spans` come in parts, each as `seconds (such as 1)`."""
    merged = [sorted(number for span in clock for number in span) for clock in zip(*parts, strict=True)]
    for fine in range(len(merged)):
        for coarse in range(fine):
            slow, fast, scale = merged[coarse], merged[fine], 1000.0 ** (fine - coarse)
            if slow and fast and fast[0] * _TOLERANCE >= slow[-1] * scale and fast[-1] <= slow[0] * scale * _TOLERANCE:
                return _named(coarse, slow[0]), _named(fine, fast[0])
    return None


def _named(clock: int, number: float) -> str:
    return f"{CLOCKS[clock]} (such as {number:.0f})"
