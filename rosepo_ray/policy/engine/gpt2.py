"""GPT-2 over packed rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rosepo_ray.policy.engine.attention import attend, attend_some
from rosepo_ray.policy.engine.layout import PackedBatch, pick
from rosepo_ray.row_dropout import Drop


def supports(decoder: Any) -> bool:
    config = decoder.config
    usual = config.model_type == "gpt2" and config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
    return type(decoder).__name__ == "GPT2Model" and usual and not config.add_cross_attention


def place(decoder: Any, x: Tensor, batch: PackedBatch) -> tuple[Tensor, None]:
    """What the first block takes: `x` and the embeddings of its positions."""
    return x + decoder.wpe(batch.position_ids_BL), None


def block(layer: Any, x: Tensor, turn: None, tree_mask: Tensor | None, drop: Drop) -> Tensor:
    q, k, v = _heads(layer, x)
    x = x + drop(layer.attn.c_proj(attend(q, k, v, tree_mask, layer.attn.head_dim**-0.5)), 0)
    return x + drop(layer.mlp(layer.ln_2(x)), 1)


def last_block(layer: Any, x: Tensor, turn: None, mask: Tensor, ask_BQ: Tensor, drop: Drop) -> Tensor:
    """Only asked columns ask, and only they go through the feed-forward part. (One map gives query, key and value.)"""
    q, k, v = _heads(layer, x)
    seen = attend_some(pick(q, ask_BQ), k, v, mask, layer.attn.head_dim**-0.5)
    x = pick(x, ask_BQ) + drop(layer.attn.c_proj(seen), 0)
    return x + drop(layer.mlp(layer.ln_2(x)), 1)


def normalise(decoder: Any, x: Tensor) -> Tensor:
    return decoder.ln_f(x)


def _heads(layer: Any, x: Tensor) -> list[Tensor]:
    parts = layer.attn.c_attn(layer.ln_1(x)).chunk(3, -1)
    return [part.unflatten(-1, (-1, layer.attn.head_dim)) for part in parts]
