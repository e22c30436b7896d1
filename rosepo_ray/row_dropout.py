"""Dropout whose mask depends on (row seed, purpose) alone: never on the batch, the rank or a global generator.

Each row of a batch owns a SplitMix64 stream (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"): word i of a row is `mix64(key + i * gamma)` with `key = mix64(row seed xor purpose)`. A word is cut into
four 16-bit numbers, so the drop rate is rounded to a multiple of 2^-16 and the scale uses the rounded rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rosepo_ray.errors import RosepoError

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_LEVELS = 1 << 16


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix64(values: Tensor) -> Tensor:
    """:func:`rosepo_ray.seeds.mix64` for int64 tensors, bit for bit: torch multiplies uint64 nowhere, int64 wraps."""
    z = values
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def keep_mask(seeds_B: Tensor, purpose: int, elements: int, rate: float) -> Tensor:
    """Which of `elements` numbers per row survive: bool [B, elements], False with probability `rate`.

    `seeds_B` is int64 [B]; `purpose` tells the uses of one row apart (one number per layer and place).
    """
    words = -(-elements // 4)
    keys_B1 = mix64(seeds_B ^ _signed(purpose * _GAMMA))[:, None]
    steps_W = torch.arange(1, words + 1, device=seeds_B.device, dtype=torch.int64) * _signed(_GAMMA)
    numbers = mix64(keys_B1 + steps_W).view(torch.int16)  # signed: -2^15 .. 2^15 - 1
    return numbers[:, :elements] >= _threshold(rate) - _LEVELS // 2


def row_dropout(values: Tensor, rate: float, seeds_B: Tensor, purpose: int) -> Tensor:
    """`values` [B, ...] with each element dropped with probability `rate`, the others divided by the share kept.

    The mask of a row is the same alone, in any batch, on any rank. Raises RosepoError for a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise RosepoError(f"dropout rate {rate} is outside [0, 1)")
    dropped = _threshold(rate)
    if dropped == 0:
        return values
    elements = values[0].numel()
    mask = keep_mask(seeds_B, purpose, elements, rate).view_as(values)
    return values * mask * (_LEVELS / (_LEVELS - dropped))


@dataclass(frozen=True)
class Dropout:
    """Dropout for values at positions of rows: the mask of a position is the same however a row is packed or padded."""

    rate: float
    seeds_B: Tensor
    """int64: what fixes each row's mask."""
    positions_BL: Tensor

    def __call__(self, values_BLH: Tensor, place: int) -> Tensor:
        """`place` tells the uses in one pass apart (one number per layer and place)."""
        longest, width = int(self.positions_BL.max()) + 1, values_BLH.shape[-1]
        ones = values_BLH.new_ones(1).expand(len(self.seeds_B), longest, width)
        mask_BPH = row_dropout(ones, self.rate, self.seeds_B, place)
        return values_BLH * mask_BPH[torch.arange(len(mask_BPH), device=mask_BPH.device)[:, None], self.positions_BL]

    def at(self, columns_BQ: Tensor) -> Dropout:
        """For values of some columns alone."""
        rows = torch.arange(len(columns_BQ), device=columns_BQ.device)[:, None]
        return replace(self, positions_BL=self.positions_BL[rows, columns_BQ])


Drop = Callable[[Tensor, int], Tensor]
"""What a block adds to its input goes through it: the attention's output (0), the feed-forward part's (1)."""


def dropping(dropout: Dropout | None, layer: int) -> Drop:
    if dropout is None:
        return lambda values, part: values
    return lambda values, part: dropout(values, 1 + 2 * layer + part)


def _threshold(rate: float) -> int:
    return min(round(rate * _LEVELS), _LEVELS - 1)
