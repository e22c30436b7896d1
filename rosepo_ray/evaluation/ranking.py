"""Ranking of candidates and the metrics of the target's place in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray.catalogue import ranks
from rosepo_ray.errors import RosepoError

CUTS = {"hr": (1, 5, 10), "ndcg": (5, 10)}


def rank(
    example_id: str,
    items: Sequence[str],
    scores: np.ndarray,
    count: int | None = None,
    left_out: Sequence[int] | np.ndarray = (),
) -> tuple[list[str], np.ndarray]:
    """Items, best first, and their scores in that order (float32 [N]); with `count` the first of them alone. The
    positions in `left_out` get no place.

    Raises:
        RosepoError: scores [N] do not fit the items, or one is NaN: no place can be given to it.
    """
    values = np.asarray(scores)
    if values.shape != (len(items),) or np.isnan(values).any():
        raise RosepoError(
            f"row {example_id}: {len(items)} items cannot be ranked by scores of shape {values.shape} "
            f"with {int(np.isnan(values).sum())} NaN; the model must give one number per item"
        )
    order = ranks.top(example_id, items, values, len(values) if count is None else count, left_out)
    return [items[i] for i in order], values[order].astype(np.float32)


def place_metrics(places_B: np.ndarray) -> dict[str, np.ndarray]:
    """Per-row HR@k, NDCG@k and MRR for the 0-based place of the one relevant item.

    HR@k = 1 if place < k; NDCG@k = 1 / log2(place + 2) if place < k (Jarvelin and Kekalainen 2002; with one
    relevant item the ideal gain is 1); reciprocal rank = 1 / (place + 1). All in [0, 1], float64 [B].
    """
    places = np.asarray(places_B, dtype=np.float64)
    found = {f"hr@{k}": (places < k).astype(np.float64) for k in CUTS["hr"]}
    found |= {f"ndcg@{k}": np.where(places < k, 1 / np.log2(places + 2), 0.0) for k in CUTS["ndcg"]}
    return found | {"mrr": 1 / (places + 1)}
