"""SASRec (Kang and McAuley 2018, arXiv:1808.09781) with a full-catalogue softmax over tied item embeddings.

Differences from the paper, on purpose: cross-entropy over all items instead of one sampled negative (Klenitskiy and
Vasilev 2023, arXiv:2309.07602, find that it is what makes SASRec strong); positions are counted from the most recent
item, so a short history means the same as the end of a long one; dropout follows the row (see `row_dropout`) and is
applied after the embedding, the attention and the feed-forward net, not inside the attention weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rosepo_ray.row_dropout import row_dropout
from rosepo_ray.seeds import derive

# Logits held at once (float32 numbers, 64 MiB); more are computed in slices and again in the backward pass.
LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Shape:
    """What fixes the weights' shapes and the forward pass."""

    items: int
    history: int
    hidden: int
    layers: int
    heads: int
    dropout: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Inputs:
    """Training windows. Items count from 1 in the order of the catalogue; 0 pads on the left; target 0 means none."""

    items_BT: Tensor
    targets_BT: Tensor
    seeds_B: Tensor

    def to(self, device: torch.device) -> Inputs:
        return Inputs(self.items_BT.to(device), self.targets_BT.to(device), self.seeds_B.to(device))


class _Block(nn.Module):
    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.heads, self.rate, self.number = shape.heads, shape.dropout, number
        self.attention_norm = nn.LayerNorm(shape.hidden)
        self.query_key_value = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.attention_out = nn.Linear(shape.hidden, shape.hidden)
        self.feed_norm = nn.LayerNorm(shape.hidden)
        self.feed_in = nn.Linear(shape.hidden, shape.hidden)
        self.feed_out = nn.Linear(shape.hidden, shape.hidden)

    def forward(self, states_BTH: Tensor, mask_B1TT: Tensor, seeds_B: Tensor | None) -> Tensor:
        batch, length, hidden = states_BTH.shape
        qkv = self.query_key_value(self.attention_norm(states_BTH)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_B1TT)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        states_BTH = states_BTH + self._drop(mixed, seeds_B, 1)
        fed = self.feed_out(functional.relu(self.feed_in(self.feed_norm(states_BTH))))
        return states_BTH + self._drop(fed, seeds_B, 2)

    def _drop(self, values: Tensor, seeds_B: Tensor | None, place: int) -> Tensor:
        if seeds_B is None:
            return values
        return row_dropout(values, self.rate, seeds_B, 1 + 2 * self.number + place)


class SasRec(nn.Module):
    """Maps item sequences to a state per position; the score of an item is state . item embedding."""

    def __init__(self, shape: Shape, seed: int) -> None:
        """Weights are drawn from `seed` (normal, standard deviation 0.02 as in BERT4Rec and GPT), never from the
        global generator."""
        super().__init__()
        self.shape = shape
        self.item_embedding = nn.Embedding(shape.items + 1, shape.hidden, padding_idx=0)
        self.position_embedding = nn.Embedding(shape.history, shape.hidden)  # 0 = the most recent item
        self.blocks = nn.ModuleList(_Block(shape, number) for number in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.hidden)
        self._initialise(torch.Generator().manual_seed(derive(seed, "sasrec", "weights")))

    def _initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.weight.normal_(0.0, 0.02, generator=generator)
                    module.bias.zero_()
                elif isinstance(module, nn.Embedding):
                    module.weight.normal_(0.0, 0.02, generator=generator)
            self.item_embedding.weight[0] = 0.0

    def states(self, items_BT: Tensor, seeds_B: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, H] of left-padded sequences with T <= history; `seeds_B` None drops nothing."""
        length = items_BT.shape[1]
        ages_T = torch.arange(length - 1, -1, -1, device=items_BT.device)
        real_BT = items_BT > 0
        states_BTH = self.item_embedding(items_BT) * self.shape.hidden**0.5 + self.position_embedding(ages_T)
        if seeds_B is not None:
            states_BTH = row_dropout(states_BTH, self.shape.dropout, seeds_B, 0)
        past_TT = torch.ones(length, length, dtype=torch.bool, device=items_BT.device).tril()
        own_TT = torch.eye(length, dtype=torch.bool, device=items_BT.device)
        # A padding position sees itself, or its softmax would be over nothing (NaN); no real position sees it.
        mask_B1TT = ((past_TT & real_BT[:, None, :]) | own_TT)[:, None]
        for block in self.blocks:
            states_BTH = block(states_BTH, mask_B1TT, seeds_B)
        return torch.as_tensor(self.final_norm(states_BTH))

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(summed cross-entropy in nats, number of targets as int64); both scalars. Drops only in training mode."""
        states_BTH = self.states(inputs.items_BT, inputs.seeds_B if self.training else None)
        wanted_BT = inputs.targets_BT > 0
        states_PH, targets_P = states_BTH[wanted_BT], inputs.targets_BT[wanted_BT] - 1
        rows = max(1, LOGITS_AT_ONCE // self.shape.items)
        if len(targets_P) <= rows:
            return self._cross_entropy(states_PH, targets_P), wanted_BT.sum()
        total = states_PH.new_zeros(())
        for states, targets in zip(torch.split(states_PH, rows), torch.split(targets_P, rows), strict=True):
            total = total + checkpoint(self._cross_entropy, states, targets, use_reentrant=False)
        return total, wanted_BT.sum()

    def _cross_entropy(self, states_PH: Tensor, targets_P: Tensor) -> Tensor:
        logits_PN = states_PH @ self.item_embedding.weight[1:].T
        return functional.cross_entropy(logits_PN.float(), targets_P, reduction="sum")
