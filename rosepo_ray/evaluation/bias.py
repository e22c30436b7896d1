"""Popularity bias: item groups, how far recommendations leave the histories' mixture, concentration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GROUPS = 5


def popularity_groups(item_ids: Sequence[str], popularity: Sequence[int] | np.ndarray) -> np.ndarray:
    """Group of each item [N]: 0 (least popular) to 4 (most), of equal item count.

    Items are sorted by training interactions, ties by item id (as text); where 5 does not divide N the first
    groups have one item more.
    """
    order = sorted(range(len(item_ids)), key=lambda i: (int(popularity[i]), item_ids[i]))
    groups = np.empty(len(item_ids), dtype=np.int64)
    for group, members in enumerate(np.array_split(np.array(order, dtype=np.int64), GROUPS)):
        groups[members] = group
    return groups


def group_unfairness(recommended_G: np.ndarray, history_G: np.ndarray) -> np.ndarray:
    """GU(g) = share of group g among the recommended - its share in the histories [..., G], in [-1, 1].

    IFairLRS (Jiang et al. 2024, arXiv:2402.15215). Inputs are counts [..., G] (any positive scale).
    """
    recommended = recommended_G / recommended_G.sum(axis=-1, keepdims=True)
    return np.asarray(recommended - history_G / history_G.sum(axis=-1, keepdims=True))


def mgu(recommended_G: np.ndarray, history_G: np.ndarray) -> np.ndarray:
    """Mean over the groups of |GU(g)| [...]: 0 where recommendations mirror the histories."""
    return np.asarray(np.abs(group_unfairness(recommended_G, history_G)).mean(axis=-1))


def dgu(recommended_G: np.ndarray, history_G: np.ndarray) -> np.ndarray:
    """max - min over the groups of GU(g) [...]."""
    unfairness = group_unfairness(recommended_G, history_G)
    return np.asarray(unfairness.max(axis=-1) - unfairness.min(axis=-1))


def gini(counts_N: np.ndarray) -> float:
    """Gini coefficient of how often each item of the catalogue is recommended, never recommended ones included.

    sum_i (2 i - N - 1) c_(i) / (N sum c) with counts sorted ascending, i = 1..N: 0 is even, (N - 1) / N is one item.
    """
    counts = np.sort(np.asarray(counts_N, dtype=np.float64))
    places = 2 * np.arange(1, len(counts) + 1) - len(counts) - 1
    return float((places * counts).sum() / (len(counts) * counts.sum()))


def coverage(counts_N: np.ndarray) -> float:
    """Share of the catalogue's items that are recommended at least once."""
    return float((np.asarray(counts_N) > 0).mean())
