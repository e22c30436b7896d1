"""A prompt as the engine reads it: tokens, and vectors of items in place of some (LLaRA: Liao et al. 2024,
arXiv:2312.02445). Text alone costs nothing more for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.errors import RosepoError

Vectors = Callable[[Tensor], Tensor]
"""Vectors [E, H] of items [E] (rows of a table), in the space of the model's token embeddings; may be trained."""


@dataclass(frozen=True)
class EncodedPrompt:
    """One column for each token and each item."""

    ids: list[int]
    """Token ids; where an item stands, any that the model knows: it is not read."""
    items: Sequence[tuple[int, int]] = ()
    """(column, row of the table) of each item's vector that stands in place of a token's."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class EncodedRow:
    """What goes through the model in one row: a trunk, read once, and responses that follow some of its columns."""

    trunk: EncodedPrompt
    """A prompt, or a whole sequence of titles."""
    answers: Sequence[Sequence[int]]
    """Token ids of each response."""
    after: Sequence[int] | None = None
    """The column of the trunk that each response follows; None where all follow its last."""
    leads: Sequence[Sequence[int]] | None = None
    """What is read between that column and the response, and not predicted (the question of a worded prompt)."""

    @cached_property
    def follows(self) -> Sequence[int]:
        return [len(self.trunk) - 1] * len(self.answers) if self.after is None else self.after

    @cached_property
    def paths(self) -> Sequence[Sequence[int]]:
        """What follows the trunk's column for each response: its lead and itself."""
        if self.leads is None:
            return self.answers
        return [[*lead, *answer] for lead, answer in zip(self.leads, self.answers, strict=True)]

    @cached_property
    def shared(self) -> list[int]:
        """How many tokens of each path need no column of their own, since the trunk goes on as it does. (Its last token
        is never read.)"""
        return [self._goes_on(*each) for each in zip(self.follows, self.paths, strict=True)]

    def pick(self, responses: slice) -> EncodedRow:
        """With some of the responses alone."""
        after = None if self.after is None else self.after[responses]
        leads = None if self.leads is None else self.leads[responses]
        return EncodedRow(self.trunk, self.answers[responses], after, leads)

    @cached_property
    def _item_columns(self) -> frozenset[int]:
        return frozenset(column for column, _ in self.trunk.items)

    def _goes_on(self, column: int, path: Sequence[int]) -> int:
        ids, share = self.trunk.ids, 0
        while (
            share < len(path) - 1
            and column + share + 1 < len(ids)
            and ids[column + share + 1] == path[share]
            and column + share + 1 not in self._item_columns
        ):
            share += 1
        return share

    @property
    def shape(self) -> tuple[int, int]:
        """Columns of the trunk, and tokens of the responses beside it at most: common beginnings are counted each."""
        alone = (len(path) - 1 - share for path, share in zip(self.paths, self.shared, strict=True))
        return len(self.trunk), sum(alone)


def item_places(prompts: Sequence[EncodedPrompt], begins: Sequence[int] | None = None) -> Tensor | None:
    """Row, column and item [E, 3] of all items in a batch, each prompt beginning at column 0 or where `begins` says;
    None where there are none."""
    found = [
        (row, column + (begins[row] if begins else 0), item)
        for row, prompt in enumerate(prompts)
        for column, item in prompt.items
    ]
    return torch.tensor(found) if found else None


def embed(decoder: Any, ids_BL: Tensor, items_E3: Tensor | None, vectors: Vectors | None) -> Tensor:
    """What enters the decoder [B, L, H]: the embeddings of tokens, and of items where these stand."""
    x_BLH: Tensor = decoder.get_input_embeddings()(ids_BL)
    if items_E3 is None:
        return x_BLH
    if vectors is None:
        raise RosepoError("a prompt holds items, but the policy has no vectors of items to put there")
    row_E, column_E, item_E = items_E3.to(ids_BL.device).unbind(1)
    return x_BLH.index_put((row_E, column_E), vectors(item_E).to(x_BLH.dtype))


def decoder_input(decoder: Any, ids_BL: Tensor, items_E3: Tensor | None, vectors: Vectors | None) -> dict[str, Tensor]:
    """The same as arguments of the decoder's own forward pass, which embeds plain tokens itself."""
    if items_E3 is None:
        return {"input_ids": ids_BL}
    return {"inputs_embeds": embed(decoder, ids_BL, items_E3, vectors)}
