"""Which split an interaction belongs to: by global time, or each user's last two."""

from __future__ import annotations

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
NAMES = ("train", "validation", "test")
SHARES = (8, 1, 1)


def time_ranks(kept: int) -> tuple[int, int]:
    """Ranks, in the global order of `kept` interactions, of the first validation and the first test interaction."""
    train, validation, _ = SHARES
    return kept * train // sum(SHARES), kept * (train + validation) // sum(SHARES)


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
