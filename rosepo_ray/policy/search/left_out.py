"""Items that must not be found: what a user has taken before, counted below any node of the title trie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray.policy.search.title_trie import TitleTrie


class LeftOut:
    """Of R rows the items (positions in the catalogue, distinct within a row) that each must not get."""

    def __init__(self, trie: TitleTrie, items_R: Sequence[np.ndarray]) -> None:
        self._trie = trie
        rows = np.repeat(np.arange(len(items_R)), [len(items) for items in items_R])
        leaves = trie.leaf_I[np.concatenate([np.empty(0, np.int64), *items_R])]
        self._keys = np.sort(rows * trie.nodes + leaves)

    def remaining(self, row_M: np.ndarray, node_M: np.ndarray) -> np.ndarray:
        """How many items that end at or below M nodes the M rows may still get, int64 [M]."""
        trie, start_M = self._trie, row_M * self._trie.nodes
        end_M = trie.end_N[node_M]
        lost_M = np.searchsorted(self._keys, start_M + end_M) - np.searchsorted(self._keys, start_M + node_M)
        return trie.item_start_N1[end_M] - trie.item_start_N1[node_M] - lost_M


def positions(left_out: Sequence[Sequence[int]] | None, rows: int) -> list[np.ndarray]:
    """The distinct items of each row, rising; nothing for every row where there is no list."""
    return [np.unique(np.asarray(items, np.int64)) for items in ([()] * rows if left_out is None else left_out)]
