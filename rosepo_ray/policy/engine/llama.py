"""Llama, Mistral, Qwen2 and Qwen3 over packed rows: their blocks, written with this package's pieces."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rosepo_ray.policy.engine.attention import attend, attend_some
from rosepo_ray.policy.engine.layout import PackedBatch, pick
from rosepo_ray.policy.engine.ops import rms_norm, rotate, swiglu
from rosepo_ray.policy.engine.projection import project
from rosepo_ray.row_dropout import Drop

DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")

Turn = tuple[Tensor, Tensor]
"""cos and sin of each column's position [B, L, 1, D / 2]."""


def supports(decoder: Any) -> bool:
    return type(decoder).__name__ in DECODERS and decoder.config.hidden_act == "silu"


def place(decoder: Any, x: Tensor, batch: PackedBatch) -> tuple[Tensor, Turn]:
    """What the first block takes: `x` as it is, and how far each position turns queries and keys."""
    cos, sin = decoder.rotary_emb(x, position_ids=batch.position_ids_BL)
    half = cos.shape[-1] // 2
    return x, (cos[..., None, :half].contiguous(), sin[..., None, :half].contiguous())


def block(layer: Any, x: Tensor, turn: Turn, tree_mask: Tensor | None, drop: Drop) -> Tensor:
    attn = layer.self_attn
    q, k, v = project((attn.q_proj, attn.k_proj, attn.v_proj), rms_norm(layer.input_layernorm, x))
    q, k = _heads(attn, "q_norm", q, turn), _heads(attn, "k_norm", k, turn)
    seen = attend(q, k, v.unflatten(-1, (-1, attn.head_dim)), tree_mask, attn.scaling)
    (out,) = project((attn.o_proj,), seen)
    return _feed_forward(layer, x + drop(out, 0), drop)


def last_block(layer: Any, x: Tensor, turn: Turn, mask: Tensor, ask_BQ: Tensor, drop: Drop) -> Tensor:
    """Only asked columns need a query, an output and the feed-forward part; every column gives key and value."""
    attn = layer.self_attn
    normed = rms_norm(layer.input_layernorm, x)
    k, v = project((attn.k_proj, attn.v_proj), normed)
    (q,) = project((attn.q_proj,), pick(normed, ask_BQ))
    q = _heads(attn, "q_norm", q, (pick(turn[0], ask_BQ), pick(turn[1], ask_BQ)))
    k = _heads(attn, "k_norm", k, turn)
    seen = attend_some(q, k, v.unflatten(-1, (-1, attn.head_dim)), mask, attn.scaling)
    (out,) = project((attn.o_proj,), seen)
    return _feed_forward(layer, pick(x, ask_BQ) + drop(out, 0), drop)


def normalise(decoder: Any, x: Tensor) -> Tensor:
    return rms_norm(decoder.norm, x)


def _heads(attn: Any, norm: str, x: Tensor, turn: Turn) -> Tensor:
    x = x.unflatten(-1, (-1, attn.head_dim))
    if hasattr(attn, norm):  # Qwen3
        x = rms_norm(getattr(attn, norm), x)
    return rotate(x, *turn)


def _feed_forward(layer: Any, x: Tensor, drop: Drop) -> Tensor:
    mlp = layer.mlp
    gate, up = project((mlp.gate_proj, mlp.up_proj), rms_norm(layer.post_attention_layernorm, x))
    (out,) = project((mlp.down_proj,), swiglu(gate, up))
    return x + drop(out, 1)
