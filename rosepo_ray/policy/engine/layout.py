"""Packed rows: what many responses share is read once.

A row is trunk | tree. The trunk is a prompt, or a whole sequence of titles; each response follows one of its columns
(a prompt's last; in a sequence the end of a title). As far as the trunk itself goes on as the response does, the
response is read off the trunk; the rest of its tokens hang in the tree, common beginnings once. A token of the tree
sees the trunk up to where its branch leaves it, its own path and itself, and its position counts along that path, so
the log-probability of a response equals that of what it follows + response alone. All trunks of a batch are padded to
one length and all trees to another: the trunks' part is plain causal attention and only the trees' part needs a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.policy.segments import EncodedRow, item_places
from rosepo_ray.row_dropout import Dropout


@dataclass(frozen=True)
class PackedBatch:
    """B rows of L = P + S columns (trunks, trees), and M predicted tokens of R responses."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    prefix: int
    """P: columns of the trunks."""
    seen_BSL: Tensor | None
    """Which columns each tree token sees; None where S is 0, and attention is causal everywhere."""
    ask_BQ: Tensor
    """Columns that predict a response token; rows with fewer are filled up with column 0."""
    place_M: Tensor
    """For each predicted token, which of the B * Q asked columns predicts it."""
    target_M: Tensor
    """The predicted tokens."""
    owner_M: Tensor
    """The response (0 ... R-1) each predicted token belongs to."""
    responses: int
    tokens: int
    """Columns without padding."""
    items_E3: Tensor | None = None
    """Row, column and item of each item's vector in a prompt; None where all is text."""
    dropout: Dropout | None = None
    """Of training passes that drop activations."""

    def to(self, device: torch.device) -> PackedBatch:
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        drop = self.dropout
        if drop is not None:
            drop = replace(drop, seeds_B=drop.seeds_B.to(device), positions_BL=drop.positions_BL.to(device))
        return replace(self, dropout=drop, **moved)

    def dropping(self, rate: float, row_seeds: Sequence[int]) -> PackedBatch:
        """The same, with activations dropped at that rate by masks that the seeds of the rows fix."""
        return replace(self, dropout=Dropout(rate, torch.tensor(row_seeds), self.position_ids_BL))

    def asked_BQL(self) -> Tensor:
        """Which columns each asked column sees."""
        causal = torch.arange(self.input_ids_BL.shape[1], device=self.ask_BQ.device) <= self.ask_BQ[..., None]
        if self.seen_BSL is None:
            return causal
        of_tree = self.ask_BQ - self.prefix
        return torch.where((of_tree >= 0)[..., None], pick(self.seen_BSL, of_tree.clamp_min(0)), causal)

    def seen_BLL(self) -> Tensor:
        """Which columns each column sees, for a decoder that must be told of all."""
        size, length = self.input_ids_BL.shape
        causal = torch.ones(self.prefix, length, dtype=torch.bool, device=self.input_ids_BL.device).tril()
        prompts = causal.expand(size, -1, -1)
        return prompts if self.seen_BSL is None else torch.cat([prompts, self.seen_BSL], 1)


def pick(x: Tensor, columns_BQ: Tensor) -> Tensor:
    """x [B, L, ...] at the columns chosen for each row: [B, Q, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], columns_BQ]


@dataclass(frozen=True)
class _Tree:
    """A row's tree: its S tokens, each with its position, the trunk's column that its branch leaves, and the end of its
    subtree (exclusive)."""

    ids: list[int]
    positions: list[int]
    leaves: list[int]
    ends: list[int]
    asks: list[int]
    """Of each predicted token: the tree token that predicts it, or -1 - the column of the trunk that does."""
    targets: list[int]
    owners: list[int]


def _tree(row: EncodedRow) -> _Tree:
    tree = _Tree([], [], [], [], [], [], [])
    shares, follows = row.shared, row.follows
    rests = [path[share:] for path, share in zip(row.paths, shares, strict=True)]
    leaves = [column + share for column, share in zip(follows, shares, strict=True)]
    path: list[int] = []
    before: Sequence[int] = []
    leaf = -1
    # Sorted, a branch shares its beginning with the one before it or with none: depth first by itself.
    for owner in sorted(range(len(rests)), key=lambda number: (leaves[number], rests[number])):
        rest, common = rests[owner], 0
        if leaves[owner] == leaf:
            while common < min(len(path), len(rest) - 1) and before[common] == rest[common]:
                common += 1
        for node in path[common:]:
            tree.ends[node] = len(tree.ids)
        del path[common:]
        leaf = leaves[owner]
        for depth in range(common, len(rest) - 1):
            path.append(len(tree.ids))
            tree.ids.append(rest[depth])
            tree.positions.append(leaf + 1 + depth)
            tree.leaves.append(leaf)
            tree.ends.append(0)
        answer = row.answers[owner]
        predicted = (*range(-1 - follows[owner], -2 - leaf, -1), *path[: len(rest) - 1])
        tree.asks.extend(predicted[len(row.paths[owner]) - len(answer) :])  # a lead is read only
        tree.targets.extend(answer)
        tree.owners.extend([owner] * len(answer))
        before = rest
    for node in path:
        tree.ends[node] = len(tree.ids)
    return tree


def pack(rows: Sequence[EncodedRow], pad_id: int) -> PackedBatch:
    """Each trunk and each response needs at least one token. The last token of a response is predicted, never fed."""
    trees = [_tree(row) for row in rows]
    size, prefix, width = len(trees), max(len(row.trunk) for row in rows), max(len(tree.ids) for tree in trees)
    asked = [sorted({-1 - ask for ask in tree.asks if ask < 0}) for tree in trees]
    most = max(len(columns) + len(tree.ids) for columns, tree in zip(asked, trees, strict=True))
    ids = torch.full((size, prefix + width), pad_id, dtype=torch.long)
    positions = torch.arange(prefix + width).repeat(size, 1)
    leaves = torch.full((size, width), -1)
    ends = torch.arange(1, width + 1).repeat(size, 1)  # padding sees itself, else softmax gives NaN
    ask = torch.zeros((size, most), dtype=torch.long)
    place: list[int] = []
    owners: list[int] = []
    first = 0
    for number, (row, tree, columns) in enumerate(zip(rows, trees, asked, strict=True)):
        here = slice(prefix, prefix + len(tree.ids))
        ids[number, : len(row.trunk)] = torch.tensor(row.trunk.ids)
        ids[number, here] = torch.tensor(tree.ids, dtype=torch.long)
        positions[number, here] = torch.tensor(tree.positions, dtype=torch.long)
        positions[number, here.stop :] = 0
        leaves[number, : len(tree.ids)] = torch.tensor(tree.leaves, dtype=torch.long)
        ends[number, : len(tree.ids)] = torch.tensor(tree.ends, dtype=torch.long)
        ask[number, : len(columns) + len(tree.ids)] = torch.tensor([*columns, *range(here.start, here.stop)])
        index = {-1 - column: place for place, column in enumerate(columns)}
        place += [number * most + (index[asks] if asks < 0 else len(columns) + asks) for asks in tree.asks]
        owners += [first + owner for owner in tree.owners]
        first += len(row.answers)
    return PackedBatch(
        ids,
        positions,
        prefix,
        _seen(leaves, ends, prefix) if width else None,
        ask,
        torch.tensor(place),
        torch.tensor([target for tree in trees for target in tree.targets]),
        torch.tensor(owners),
        first,
        sum(len(row.trunk) + len(tree.ids) for row, tree in zip(rows, trees, strict=True)),
        item_places([row.trunk for row in rows]),
    )


def _seen(leaves_BS: Tensor, ends_BS: Tensor, prefix: int) -> Tensor:
    """A tree token sees the trunk up to where its branch leaves it, and the tree tokens before it whose subtree it lies
    in."""
    width = ends_BS.shape[1]
    trunk_BSP = torch.arange(prefix) <= leaves_BS[..., None]
    query, key = torch.arange(width)[:, None], torch.arange(width)[None, :]
    tree_BSS = (key <= query) & (query < ends_BS[:, None, :])
    return torch.cat([trunk_BSP, tree_BSS], 2)
