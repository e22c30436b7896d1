"""Packed rows: one prompt and all its responses in a single row, so that the prompt is computed once.

A row is prompt | response 1 | response 2 | …; a response sees the prompt and itself, and its positions restart right
after the prompt, so its log-probability equals that of prompt + response alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """B rows padded to L tokens, and M predicted tokens of R responses."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    mask_B1LL: Tensor | None
    """Additive float mask (0 or the dtype's minimum); None means plain causal attention."""
    source_S: Tensor
    """Flat indices (into B * L) of the distinct positions that predict a response token."""
    place_M: Tensor
    """For each predicted token, which of the S positions predicts it."""
    target_M: Tensor
    """The predicted tokens."""
    owner_M: Tensor
    """The response (0 … R-1) each predicted token belongs to."""
    responses: int
    tokens: int
    """Tokens without padding."""

    def to(self, device: torch.device) -> PackedBatch:
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def pack(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], pad_id: int) -> PackedBatch:
    """Rows from prompt ids [B] and, per row, the ids of its responses (end token included).

    Each prompt and each response needs at least one token. The last token of a response is predicted, never fed.
    """
    rows = [_row(prompt, answers) for prompt, answers in zip(prompts, responses, strict=True)]
    length = max(len(row.ids) for row in rows)
    size = len(rows)
    ids = torch.full((size, length), pad_id, dtype=torch.long)
    positions = torch.zeros((size, length), dtype=torch.long)
    segments = torch.full((size, length), -1, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        positions[number, : len(row.ids)] = torch.tensor(row.positions)
        segments[number, : len(row.ids)] = torch.tensor(row.segments)
    return _batch(rows, ids, positions, _block_mask(segments), length)


def chain(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], pad_id: int) -> PackedBatch:
    """Rows in which each response follows the one before and sees it: dense training on whole sequences."""
    rows = []
    for prompt, answers in zip(prompts, responses, strict=True):
        flat = [token for answer in answers for token in answer]
        fed = [*prompt, *flat[:-1]]
        owners = [number for number, answer in enumerate(answers) for _ in answer]
        sources = list(range(len(prompt) - 1, len(fed)))
        rows.append(_Row(fed, list(range(len(fed))), [], sources, flat, owners, len(answers)))
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
    positions = torch.arange(length).expand(len(rows), length)
    # Padding stands at the end, where causal attention never looks back at it.
    return _batch(rows, ids, positions, None, length)


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    positions: list[int]
    segments: list[int]
    sources: list[int]
    targets: list[int]
    owners: list[int]
    responses: int


def _row(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> _Row:
    ids, positions, segments = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for number, answer in enumerate(answers):
        start = len(ids)
        fed = answer[:-1]
        ids += fed
        positions += range(len(prompt), len(prompt) + len(fed))
        segments += [number + 1] * len(fed)
        sources += [len(prompt) - 1, *range(start, start + len(fed))]
        targets += answer
        owners += [number] * len(answer)
    return _Row(ids, positions, segments, sources, targets, owners, len(answers))


def _block_mask(segments_BL: Tensor) -> Tensor:
    length = segments_BL.shape[1]
    query, key = segments_BL[:, :, None], segments_BL[:, None, :]
    seen = ((key == 0) | (key == query)) & torch.ones(length, length, dtype=torch.bool).tril()
    seen &= (key >= 0) | torch.eye(length, dtype=torch.bool)  # padding sees itself, else softmax gives NaN
    mask = torch.zeros(seen.shape, dtype=torch.float32).masked_fill_(~seen, torch.finfo(torch.float32).min)
    return mask[:, None]


def _batch(rows: list[_Row], ids: Tensor, positions: Tensor, mask: Tensor | None, length: int) -> PackedBatch:
    flat: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    first = 0
    for number, row in enumerate(rows):
        flat += [number * length + source for source in row.sources]
        targets += row.targets
        owners += [first + owner for owner in row.owners]
        first += row.responses
    source, place = torch.unique(torch.tensor(flat), return_inverse=True)
    return PackedBatch(
        ids,
        positions,
        mask,
        source,
        place,
        torch.tensor(targets),
        torch.tensor(owners),
        first,
        sum(len(row.ids) for row in rows),
    )
