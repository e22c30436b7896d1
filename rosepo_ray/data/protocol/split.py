"""Which split an interaction belongs to: by global time, or each user's last two.

By time there are two moments: what comes before the first is training, what comes before the second validation, the
rest test. They are quantiles of the times of a log that lies in many partitions, found by counting instead of
collecting: the range of times is narrowed by histograms, one round over all partitions at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rosepo_ray.errors import BadInput

TRAIN, VALIDATION, TEST = 0, 1, 2
NAMES = ("train", "validation", "test")
SHARES = (8, 1, 1)
BINS = 1 << 16


class Cut(NamedTuple):
    """A moment that divides the log."""

    time: int
    before: int
    """Kept interactions before it."""


def time_ranks(kept: int) -> tuple[int, int]:
    """How many of `kept` interactions should come before the validation and before the test split."""
    train, validation, _ = SHARES
    return kept * train // sum(SHARES), kept * (train + validation) // sum(SHARES)


def histogram(times: np.ndarray, low: int, high: int) -> np.ndarray:
    """Counts [BINS] of the times of one partition within [low, high], cut into at most BINS bins of equal width."""
    inside = times[(times >= low) & (times <= high)]
    # Unsigned differences are right over the whole range of int64.
    offsets = inside.astype(np.uint64) - np.array(low, np.int64).astype(np.uint64)
    bins = (offsets // np.uint64(_width(low, high))).astype(np.int64)
    return np.bincount(bins, minlength=BINS)


def _width(low: int, high: int) -> int:
    return (high - low) // BINS + 1


def find_cut(rank: int, low: int, high: int, count: Callable[[int, int], np.ndarray]) -> Cut:
    """The moment that has as near to `rank` interactions before it as equal times allow, the earlier of two as near.

    All times lie in [low, high] and are more than `rank`; `count(low, high)` adds `histogram` over all partitions.
    """
    below = 0
    while True:
        counts, width = count(low, high), _width(low, high)
        before = below + np.concatenate([[0], np.cumsum(counts)])
        chosen = int(np.searchsorted(before, rank, side="right")) - 1
        below, through = int(before[chosen]), int(before[chosen + 1])
        low += chosen * width
        high = min(high, low + width - 1)
        if width == 1:  # the bin is one time, that of the interaction of this rank
            return Cut(low, below) if rank - below <= through - rank else Cut(low + 1, through)


def refuse_empty(validation: Cut, test: Cut, kept: int, one_time: bool) -> None:
    """Raises BadInput where a split has none of the `kept` interactions; `one_time`: they all have the same time."""
    if one_time:
        raise BadInput(
            f"all {kept} interactions have one and the same time, so they cannot be split by time; name another "
            "column with --data.columns.time, or set --data.split last_two"
        )
    sizes = (validation.before, test.before - validation.before, kept - test.before)
    if empty := [name for name, size in zip(NAMES, sizes, strict=True) if not size]:
        raise BadInput(
            f"a split of {kept} interactions by time leaves the {empty[0]} split empty, since they are few or many of "
            "their times are equal; give a longer log or set --data.split last_two"
        )


def last_two(lengths: np.ndarray) -> np.ndarray:
    """Splits uint8 [sum(lengths)] of interactions sorted by user and time; `lengths` [U] counts those of each user.

    The last is the test, the one before it validation. A user with fewer than three has no room for both and stays in
    the training split (as in the released code of SASRec, arXiv:1808.09781).
    """
    ends = np.repeat(np.cumsum(lengths), lengths)
    enough = np.repeat(lengths >= 3, lengths)
    left = ends - np.arange(len(ends))  # 1 for a user's last interaction
    splits = np.full(len(ends), TRAIN, np.uint8)
    splits[enough & (left == 2)] = VALIDATION
    splits[enough & (left == 1)] = TEST
    return splits
