"""The catalogue's titles as a trie of tokens, in flat arrays: titles that begin alike share their first nodes.

Node 0 is the empty title. Every title is closed by the end token, so items end at leaves and only there. Nodes are
numbered depth first: a parent comes before its children and a subtree is the range `node … end[node]`, so among any
run of nodes "key <= query < end[key]" says which are ancestors of which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from rosepo_ray.errors import BadInput
from rosepo_ray.policy.prompts import Prompter

_TITLES_AT_ONCE = 50_000  # a tokenizer's answer is Python lists, far larger than the arrays made of them


@dataclass(frozen=True)
class TitleTrie:
    """N nodes, I items."""

    item_ids: Sequence[str]
    """The catalogue; an item is known by its position in it."""
    token_N: np.ndarray
    """The token that leads to a node; -1 for node 0."""
    parent_N: np.ndarray
    """-1 for node 0."""
    depth_N: np.ndarray
    """Tokens from the empty title to a node."""
    end_N: np.ndarray
    """One past the last node of a node's subtree."""
    child_start_N1: np.ndarray
    """The children of node n are `child_E[child_start_N1[n] : child_start_N1[n + 1]]`, by rising token."""
    child_E: np.ndarray
    item_start_N1: np.ndarray
    """The items that end at node n are `item_I[item_start_N1[n] : item_start_N1[n + 1]]`; several may share a title."""
    item_I: np.ndarray
    leaf_I: np.ndarray
    """The node at which each item ends."""

    @classmethod
    def build(cls, prompter: Prompter, titles: Sequence[str], item_ids: Sequence[str]) -> TitleTrie:
        """The trie of `titles`, one per item.

        Raises BadInput where there is no title, where the tokenizer knows none of a title's letters, or where a title
        holds the token that should end it.
        """
        tokens: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        for start in range(0, len(titles), _TITLES_AT_ONCE):
            here = titles[start : start + _TITLES_AT_ONCE]
            rows = prompter.all_text_ids(here)
            size = np.fromiter(map(len, rows), np.int64, len(rows))
            if not size.all():
                empty = here[int(np.argmin(size))]
                raise BadInput(f"the tokenizer cannot encode the title {empty!r}; give the item another title")
            flat = np.fromiter(chain.from_iterable(rows), np.int64, int(size.sum()))
            if (flat == prompter.end_id).any():
                row = int(np.searchsorted(size.cumsum(), int(np.argmax(flat == prompter.end_id)), side="right"))
                raise BadInput(
                    f"the tokenizer writes the title {here[row]!r} with the token that ends a title; give the item "
                    "another title"
                )
            tokens.append(np.insert(flat, size.cumsum(), prompter.end_id))
            lengths.append(size + 1)
        if not lengths:
            raise BadInput("the catalogue has no items, so there is nothing to rank; give at least one")
        return cls.from_ids(np.concatenate(tokens), np.concatenate(lengths), item_ids)

    @classmethod
    def from_ids(cls, tokens_T: np.ndarray, length_I: np.ndarray, item_ids: Sequence[str]) -> TitleTrie:
        """The trie of I token rows laid end to end; every row ends with a token that stands nowhere else in it."""
        levels, leaf_I = _levels(tokens_T, length_I)
        depth = np.repeat(np.arange(len(levels)), [len(level[0]) for level in levels])
        token, parent = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        size, number = _depth_first(levels)
        nodes = len(number)
        placed = {"token": token, "parent": np.where(parent < 0, -1, number[parent]), "depth": depth}
        arrays = {name: np.empty(nodes, np.int64) for name in placed}
        for name, values in placed.items():
            arrays[name][number] = values
        end = np.empty(nodes, np.int64)
        end[number] = number + size
        leaf_I = number[leaf_I]
        # Numbered by level, siblings stand together by rising token; a stable sort by parent keeps that.
        child = number[1:][np.argsort(number[parent[1:]], kind="stable")]
        return cls(
            item_ids,
            arrays["token"],
            arrays["parent"],
            arrays["depth"],
            end,
            _starts(arrays["parent"][1:], nodes),
            child,
            _starts(leaf_I, nodes),
            np.argsort(leaf_I, kind="stable"),
            leaf_I,
        )

    @property
    def nodes(self) -> int:
        return len(self.token_N)

    @property
    def items(self) -> int:
        return len(self.leaf_I)

    @cached_property
    def is_leaf_N(self) -> np.ndarray:
        """Where a title ends; every other node has children."""
        return np.diff(self.child_start_N1) == 0

    @cached_property
    def read_R(self) -> np.ndarray:
        """The nodes that a model reads to score all titles: all but the empty title and the leaves."""
        return np.flatnonzero(~self.is_leaf_N)[1:]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest title with its end token."""
        return int(self.depth_N.max())

    @cached_property
    def by_depth(self) -> list[np.ndarray]:
        """The nodes of depth 1, 2, …"""
        order = np.argsort(self.depth_N, kind="stable")
        return np.split(order, np.searchsorted(self.depth_N[order], np.arange(1, self.longest + 1)))[1:]

    @cached_property
    def _edges_E(self) -> np.ndarray:
        """(parent, token) of each child as one number, rising."""
        return self.parent_N[self.child_E] * self._tokens + self.token_N[self.child_E]

    @cached_property
    def _tokens(self) -> int:
        return int(self.token_N.max()) + 1

    def children(self, node_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All children of M nodes, and for each child which of the M it belongs to; both in the order of `node_M`."""
        first = self.child_start_N1[node_M]
        count = self.child_start_N1[node_M + 1] - first
        owner = np.repeat(np.arange(len(node_M)), count)
        edge = np.arange(len(owner)) + np.repeat(first - (count.cumsum() - count), count)
        return self.child_E[edge], owner

    def step(self, node_M: np.ndarray, token_M: np.ndarray) -> np.ndarray:
        """The children that M tokens lead to from M nodes; -1 where there is none, and from -1."""
        wanted = node_M * self._tokens + token_M
        place = np.searchsorted(self._edges_E, wanted).clip(max=len(self._edges_E) - 1)
        found = (self._edges_E[place] == wanted) & (node_M >= 0) & (token_M >= 0) & (token_M < self._tokens)
        return np.where(found, self.child_E[place], -1)

    def walk(self, token_MT: np.ndarray) -> np.ndarray:
        """The nodes that M rows of tokens lead to from the empty title; -1 where a row leaves the trie."""
        node_M = np.zeros(len(token_MT), np.int64)
        for token_M in token_MT.T:
            node_M = self.step(node_M, token_M)
        return node_M

    def path(self, node: int) -> list[int]:
        """The ancestors of a node below the empty title, shortest first."""
        found: list[int] = []
        while (node := int(self.parent_N[node])) > 0:
            found.append(node)
        return found[::-1]


def _levels(tokens_T: np.ndarray, length_I: np.ndarray) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Tokens and parents of the nodes of depth 0, 1, …, and the node of each item, numbered level by level."""
    first_I = length_I.cumsum() - length_I
    width = int(tokens_T.max()) + 1
    levels = [(np.array([-1]), np.array([-1]))]
    node_I = np.zeros(len(length_I), np.int64)
    alive, known, depth = np.arange(len(length_I)), 1, 0
    while len(alive):
        edge, where = np.unique(node_I[alive] * width + tokens_T[first_I[alive] + depth], return_inverse=True)
        levels.append((edge % width, edge // width))
        node_I[alive] = known + where
        known, depth = known + len(edge), depth + 1
        alive = alive[length_I[alive] > depth]
    return levels, node_I


def _depth_first(levels: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in the subtree of each node, and its depth-first number; both indexed level by level."""
    starts = np.cumsum([0] + [len(token) for token, _ in levels])
    size = np.ones(starts[-1], np.int64)
    for depth in range(len(levels) - 1, 0, -1):
        below = slice(starts[depth], starts[depth + 1])
        size[: starts[depth]] += np.bincount(levels[depth][1], size[below], starts[depth]).astype(np.int64)
    number = np.zeros(starts[-1], np.int64)
    for depth in range(1, len(levels)):
        below, parent = slice(starts[depth], starts[depth + 1]), levels[depth][1]
        before = size[below].cumsum() - size[below]
        eldest = np.searchsorted(parent, parent)  # the first child of the same parent
        number[below] = number[parent] + 1 + before - before[eldest]
    return size, number


def _starts(owner: np.ndarray, nodes: int) -> np.ndarray:
    return np.concatenate([[0], np.bincount(owner, minlength=nodes).cumsum()])
