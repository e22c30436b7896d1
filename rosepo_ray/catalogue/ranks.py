"""The one order of scored items, wherever items are ranked: best first, ties by a hash of row and item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray import seeds


def top(
    row_id: str, item_ids: Sequence[str], scores_N: np.ndarray, count: int, left_out: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """Positions of the `count` best of N scores (fewer where N is smaller), best first, int64. No score may be NaN.
    The positions in `left_out` get no place.

    Equal scores are ordered by `seeds.tie_break(row_id, item)`, so that the order in which items came decides nothing.
    Only scores that can be among the best are sorted and only their items hashed.
    """
    here = np.delete(np.arange(len(scores_N)), np.asarray(left_out, np.int64))
    if count < len(here):
        rest = len(here) - count
        here = here[scores_N[here] >= np.partition(scores_N[here], rest)[rest]]
    ties = seeds.tie_break(row_id, (item_ids[i] for i in here.tolist()))
    return here[np.lexsort((ties, -scores_N[here]))[:count]]
