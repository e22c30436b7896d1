"""Best-first search for the k best titles, many prompts at once.

Every prompt keeps its open prefixes with their sums. A round takes the best few of each prompt, reads them in one call
on top of the cached prompts, and opens their children. A prompt is done when no open prefix reaches its k-th title.
"""

from __future__ import annotations

import numpy as np
import torch

from rosepo_ray.policy.search.left_out import LeftOut
from rosepo_ray.policy.search.prompt_cache import CachedPrompts
from rosepo_ray.policy.search.title_trie import TitleTrie

_NONE = np.float32(-np.inf)
_FIRST_ROUND = 256
"""Tokens of an early round, which has 4 to 16 nodes of each prompt."""
_GROWTH = 8
"""A round reads as many nodes as were read before, divided by this: few rounds, and what the last one reads in vain
stays a small part."""
_REPACK = 0.75
"""The cache is rewritten for the prompts that go on once they are fewer than this share of it."""


class Search:
    """U prompts in work (of B at the start), C open prefixes at most, S nodes read so far (slot 0: the prompt)."""

    def __init__(self, cached: CachedPrompts, trie: TitleTrie, k: int, tokens: int, left_out: LeftOut) -> None:
        batch = len(cached.length_B)
        self._cached, self._trie, self._k, self._tokens = cached, trie, k, tokens
        self._left_out = left_out
        self.given_up = np.zeros(batch, bool)
        """Rows that met the bound, whose finished titles may not be the best."""
        self.out_of_memory = False
        """Whether that bound was memory, so that fewer rows at once may do."""
        self.read = np.zeros(batch, np.int64)
        """Nodes read for each row."""
        self._row_U = np.arange(batch)
        self._finished: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._best_UK = np.full((batch, k), _NONE)
        self._count_U = np.zeros(batch, np.int64)
        self._open_UC = np.full((batch, 256), _NONE)
        self._node_UC = np.zeros((batch, 256), np.int64)
        self._from_UC = np.zeros((batch, 256), np.int64)
        # The slots that a node's children see beside the prompt: its ancestors and itself, the last one repeated.
        depths = max(1, trie.longest - 1)
        self._path_USD = np.repeat(cached.length_B - 1, 64 * depths).reshape(batch, 64, depths)

    def run(self, most_nodes: int, most_bytes: int) -> None:
        """Search until every row is done or met the bound."""
        rows = np.arange(len(self._row_U))
        roots = np.zeros(len(rows), np.int64)
        self._open(self._cached.last_BH, rows, roots, np.zeros(len(rows), np.float32), roots)
        while True:
            wanted_UC = (self._open_UC >= self._worst_U[:, None]) & (self._open_UC > _NONE)
            going = np.asarray(wanted_UC.any(1))
            if not going.any():
                return
            if going.sum() < _REPACK * len(going):
                self._keep(np.flatnonzero(going))
                wanted_UC, going = wanted_UC[going], going[going]
            size = len(going)
            most = int(wanted_UC.sum(1).max())
            if self._open_UC.shape[1] > 2 * max(most, 128):
                self._drop(wanted_UC, most)
            read = self._cached.slots - self._cached.width
            width = max(4, min(16, _FIRST_ROUND // size), read // _GROWTH)
            width = min(width, most, max(1, self._tokens // size))
            # Buffers grow by half, so as much again may lie beside what is used.
            needed = (self._cached.slots + width) * size * self._cached.bytes_per_slot * 3 // 2
            self.out_of_memory = needed > most_bytes
            if self.out_of_memory or read + width > most_nodes:
                self.given_up[self._row_U[going]] = True
                return
            self._round(width)

    @property
    def _worst_U(self) -> np.ndarray:
        """The k-th best score so far."""
        return self._best_UK[:, 0]

    def finished(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Leaves read for a row and their scores: its k best titles and all that equal the last are among them. A leaf
        may hold items that are left out beside others."""
        parts = [(leaf[owner == row], score[owner == row]) for owner, leaf, score in self._finished]
        leaves, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        return np.concatenate(leaves + [p[0] for p in parts]), np.concatenate(scores + [p[1] for p in parts])

    def _round(self, width: int) -> None:
        size, cached, trie = len(self._row_U), self._cached, self._trie
        used = int(self._count_U.max())
        column_UW = np.argpartition(-self._open_UC[:, :used], width - 1, axis=1)[:, :width]
        row_U1 = np.arange(size)[:, None]
        bound_UW, node_UW = self._open_UC[row_U1, column_UW], self._node_UC[row_U1, column_UW]
        real_UW = (bound_UW >= self._worst_U[:, None]) & (bound_UW > _NONE)
        self._open_UC[row_U1, column_UW] = _NONE
        node_UW = np.where(real_UW, node_UW, trie.read_R[0])
        depth_UW = trie.depth_N[node_UW]
        first = cached.slots
        path_UWD = self._path_USD[row_U1, self._from_UC[row_U1, column_UW]]
        own_W = np.arange(first, first + width)
        deeper = np.arange(path_UWD.shape[2]) >= depth_UW[:, :, None] - 1
        path_UWD = np.where(deeper, own_W[:, None], path_UWD)
        slot_W = own_W - cached.width + 1
        if slot_W[-1] >= self._path_USD.shape[1]:
            self._path_USD = np.pad(self._path_USD, ((0, 0), (0, int(slot_W[-1])), (0, 0)))
        self._path_USD[:, slot_W] = path_UWD
        mask = torch.full((size, 1, width, first + width), cached.floor, dtype=cached.mask_BP.dtype)
        mask[..., : cached.width] = cached.mask_BP[:, None, None]
        mask.scatter_(3, torch.from_numpy(path_UWD)[:, None], 0)
        hidden = cached.read(trie.token_N[node_UW], cached.length_B[:, None] + depth_UW - 1, mask)
        owner, column = np.nonzero(real_UW)
        self.read[self._row_U] += real_UW.sum(1)
        chosen = hidden[torch.from_numpy(owner), torch.from_numpy(column)]
        self._open(chosen, owner, node_UW[real_UW], bound_UW[real_UW], slot_W[column])

    def _open(
        self, hidden_MH: torch.Tensor, owner_M: np.ndarray, node_M: np.ndarray, bound_M: np.ndarray, slot_M: np.ndarray
    ) -> None:
        """The children of M nodes that were read: leaves are finished, others open."""
        child, parent = self._trie.children(node_M)
        some = self._left_out.remaining(self._row_U[owner_M[parent]], child) > 0
        child, parent = child[some], parent[some]
        bound = bound_M[parent] + self._cached.logps(hidden_MH, parent, self._trie.token_N[child])
        owner, leaf = owner_M[parent], self._trie.is_leaf_N[child]
        if leaf.any():
            self._finish(owner[leaf], child[leaf], bound[leaf])
        open_E = ~leaf & (bound >= self._worst_U[owner])
        owner, child, bound, slot = owner[open_E], child[open_E], bound[open_E], slot_M[parent[open_E]]
        new_U = np.bincount(owner, minlength=len(self._row_U))
        place = self._count_U[owner] + _rank(new_U)
        self._count_U += new_U
        missing = int(self._count_U.max()) - self._open_UC.shape[1]
        if missing > 0:
            grow = ((0, 0), (0, max(missing, self._open_UC.shape[1] // 2)))
            self._open_UC = np.pad(self._open_UC, grow, constant_values=_NONE)
            self._node_UC, self._from_UC = np.pad(self._node_UC, grow), np.pad(self._from_UC, grow)
        self._open_UC[owner, place], self._node_UC[owner, place], self._from_UC[owner, place] = bound, child, slot

    def _finish(self, owner: np.ndarray, leaf: np.ndarray, score: np.ndarray) -> None:
        self._finished.append((self._row_U[owner], leaf, score))
        titles = self._left_out.remaining(self._row_U[owner], leaf)
        titles = np.minimum(titles, self._k)  # items of one title fill several of the k places
        owner, score = np.repeat(owner, titles), np.repeat(score, titles)
        new_U = np.bincount(owner, minlength=len(self._row_U))
        added = np.full((len(new_U), int(new_U.max())), _NONE)
        added[owner, _rank(new_U)] = score
        both = np.concatenate([self._best_UK, added], 1)
        self._best_UK = np.partition(both, added.shape[1], axis=1)[:, added.shape[1] :]
        self._best_UK.sort(1)

    def _drop(self, wanted_UC: np.ndarray, most: int) -> None:
        """Forget the open prefixes that were read or can no longer reach the k-th title."""
        column = np.argsort(~wanted_UC, axis=1, kind="stable")[:, :most]
        kept = np.where(np.take_along_axis(wanted_UC, column, 1), np.take_along_axis(self._open_UC, column, 1), _NONE)
        self._open_UC, self._count_U = kept, wanted_UC.sum(1)
        self._node_UC = np.take_along_axis(self._node_UC, column, 1)
        self._from_UC = np.take_along_axis(self._from_UC, column, 1)

    def _keep(self, rows: np.ndarray) -> None:
        self._cached.keep(rows)
        for name in ("_row_U", "_best_UK", "_count_U", "_open_UC", "_node_UC", "_from_UC", "_path_USD"):
            setattr(self, name, getattr(self, name)[rows])


def _rank(count_U: np.ndarray) -> np.ndarray:
    """0, 1, … within each run of `count_U` entries."""
    return np.arange(count_U.sum()) - np.repeat(count_U.cumsum() - count_U, count_U)
