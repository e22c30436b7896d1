"""Packed rows: one prompt and all its responses in a single row, so that the prompt is computed once.

A row is prompt | tree. The tree holds the responses' tokens, common beginnings once, each token before those that
follow it. A token sees the prompt, its own path in the tree and itself, and its position counts along that path, so
the log-probability of a response equals that of prompt + response alone. All prompts of a batch are padded to one
length and all trees to another: the prompts' part is plain causal attention and only the trees' part needs a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.policy.segments import EncodedPrompt, item_places


@dataclass(frozen=True)
class PackedBatch:
    """B rows of L = P + S columns (prompts, trees), and M predicted tokens of R responses."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    prefix: int
    """P: columns of the prompts."""
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

    def to(self, device: torch.device) -> PackedBatch:
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

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
    """A row's tree: its S tokens, each with its depth and the end of its subtree (exclusive)."""

    ids: list[int]
    depths: list[int]
    ends: list[int]
    asks: list[int]
    """Of each predicted token: the tree token that predicts it, -1 for the prompt's last."""
    targets: list[int]
    owners: list[int]


def _tree(answers: Sequence[Sequence[int]]) -> _Tree:
    tree = _Tree([], [], [], [], [], [])
    path: list[int] = []
    before: Sequence[int] = []
    # Sorted, a response shares its beginning with the one before it or with none: depth first by itself.
    for owner in sorted(range(len(answers)), key=lambda number: list(answers[number])):
        answer = answers[owner]
        shared = 0
        while shared < min(len(path), len(answer) - 1) and before[shared] == answer[shared]:
            shared += 1
        for node in path[shared:]:
            tree.ends[node] = len(tree.ids)
        del path[shared:]
        for depth in range(shared, len(answer) - 1):
            path.append(len(tree.ids))
            tree.ids.append(answer[depth])
            tree.depths.append(depth)
            tree.ends.append(0)
        tree.asks.extend((-1, *path[: len(answer) - 1]))
        tree.targets.extend(answer)
        tree.owners.extend([owner] * len(answer))
        before = answer
    for node in path:
        tree.ends[node] = len(tree.ids)
    return tree


def pack(prompts: Sequence[EncodedPrompt], responses: Sequence[Sequence[Sequence[int]]], pad_id: int) -> PackedBatch:
    """Rows from prompts [B] and, per row, the ids of its responses (end token included).

    Each prompt and each response needs at least one token. The last token of a response is predicted, never fed.
    """
    trees = [_tree(answers) for answers in responses]
    size, prefix, width = len(trees), max(map(len, prompts)), max(len(tree.ids) for tree in trees)
    ids = torch.full((size, prefix + width), pad_id, dtype=torch.long)
    positions = torch.zeros((size, prefix + width), dtype=torch.long)
    positions[:, :prefix] = torch.arange(prefix)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ends = torch.arange(1, width + 1).repeat(size, 1)  # padding sees itself, else softmax gives NaN
    ask = torch.zeros((size, 1 + width), dtype=torch.long)
    place: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    first = 0
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        here = slice(prefix, prefix + len(tree.ids))
        ids[row, : len(prompt)] = torch.tensor(prompt.ids)
        ids[row, here] = torch.tensor(tree.ids, dtype=torch.long)
        positions[row, here] = torch.tensor(tree.depths, dtype=torch.long) + len(prompt)
        ends[row, : len(tree.ids)] = torch.tensor(tree.ends, dtype=torch.long)
        ask[row, 0] = len(prompt) - 1
        ask[row, 1 : 1 + len(tree.ids)] = torch.arange(here.start, here.stop)
        place += [row * (1 + width) + 1 + asked for asked in tree.asks]
        targets += tree.targets
        owners += [first + owner for owner in tree.owners]
        first += len(responses[row])
    return PackedBatch(
        ids,
        positions,
        prefix,
        _seen(lengths, ends, prefix) if width else None,
        ask,
        torch.tensor(place),
        torch.tensor(targets),
        torch.tensor(owners),
        first,
        int(lengths.sum()) + sum(len(tree.ids) for tree in trees),
        item_places(prompts),
    )


def _seen(lengths_B: Tensor, ends_BS: Tensor, prefix: int) -> Tensor:
    """A tree token sees its prompt, and the tree tokens before it whose subtree it lies in."""
    width = ends_BS.shape[1]
    prompt_BSP = (torch.arange(prefix) < lengths_B[:, None])[:, None, :].expand(-1, width, -1)
    query, key = torch.arange(width)[:, None], torch.arange(width)[None, :]
    tree_BSS = (key <= query) & (query < ends_BS[:, None, :])
    return torch.cat([prompt_BSP, tree_BSS], 2)


def chain(prompts: Sequence[EncodedPrompt], responses: Sequence[Sequence[Sequence[int]]], pad_id: int) -> PackedBatch:
    """Rows in which each response follows the one before and sees it: dense training on whole sequences."""
    flats = [[token for answer in answers for token in answer] for answers in responses]
    fed = [[*prompt.ids, *flat[:-1]] for prompt, flat in zip(prompts, flats, strict=True)]
    length, asked = max(map(len, fed)), max(map(len, flats))
    ids = torch.full((len(fed), length), pad_id, dtype=torch.long)
    ask = torch.zeros((len(fed), asked), dtype=torch.long)
    place: list[int] = []
    owners: list[int] = []
    first = 0
    for row, (prompt, flat, tokens) in enumerate(zip(prompts, flats, fed, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        ask[row, : len(flat)] = torch.arange(len(prompt) - 1, len(tokens))
        place += range(row * asked, row * asked + len(flat))
        owners += [first + number for number, answer in enumerate(responses[row]) for _ in answer]
        first += len(responses[row])
    # Padding stands at the end, where causal attention never looks back at it.
    return PackedBatch(
        ids,
        torch.arange(length).expand(len(fed), length),
        length,
        None,
        ask,
        torch.tensor(place),
        torch.tensor([token for flat in flats for token in flat]),
        torch.tensor(owners),
        first,
        sum(map(len, fed)),
        item_places(prompts),
    )
