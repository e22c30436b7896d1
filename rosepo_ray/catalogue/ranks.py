"""The one order of scored items, wherever items are ranked: best first, ties by a hash of row and item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray import seeds


def top(row_id: str, item_ids: Sequence[str], scores_N: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` best of N scores (fewer where N is smaller), best first, int64. No score may be NaN.

    Equal scores are ordered by `seeds.tie_break(row_id, item)`, so that the order in which items came decides nothing.
    Only scores that can be among the best are sorted and only their items hashed.
    """
    if count < len(scores_N):
        rest = len(scores_N) - count
        here = np.flatnonzero(scores_N >= np.partition(scores_N, rest)[rest])
    else:
        here = np.arange(len(scores_N))
    ties = seeds.tie_break(row_id, (item_ids[i] for i in here.tolist()))
    return here[np.lexsort((ties, -scores_N[here]))[:count]]
