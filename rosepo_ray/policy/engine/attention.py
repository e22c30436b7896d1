"""Attention over packed rows: plain causal among the prompts' columns, by mask for the trees'.

The prompts' part needs no mask and skips what lies ahead, which is half of its work; the trees' part has few queries.
On CUDA the same two calls reach the flash and the memory-efficient kernel of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers to add to the attention scores, in the shape of `seen`: 0 where a column is seen, else the smallest there
    is. Float, since the eager attention of transformers silently takes a Boolean mask for numbers."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attend(q_BLHD: Tensor, k_BLGD: Tensor, v_BLGD: Tensor, tree_mask: Tensor | None, scale: float) -> Tensor:
    """What every column sees: [B, L, H * D]. The last S columns follow the mask [B, 1, S, L], the others are causal."""
    q, k, v = _by_head(q_BLHD, k_BLGD, v_BLGD)
    if tree_mask is None:
        return sdpa(q, k, v, is_causal=True, scale=scale).transpose(1, 2).flatten(2)
    width = tree_mask.shape[2]
    prefix = q.shape[2] - width
    q_prompt, q_tree = q.split([prefix, width], 2)
    prompt = sdpa(q_prompt, k[:, :, :prefix], v[:, :, :prefix], is_causal=True, scale=scale)
    tree = sdpa(q_tree, k, v, attn_mask=tree_mask, scale=scale)
    return torch.cat([prompt.transpose(1, 2), tree.transpose(1, 2)], 1).flatten(2)


def attend_some(q_BQHD: Tensor, k_BLGD: Tensor, v_BLGD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """What Q chosen columns see by the mask [B, 1, Q, L]: [B, Q, H * D]."""
    q, k, v = _by_head(q_BQHD, k_BLGD, v_BLGD)
    return sdpa(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)


def _by_head(q_BLHD: Tensor, k_BLGD: Tensor, v_BLGD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heads before columns; keys and values of a group repeated for its heads (Ainslie et al. 2023,
    arXiv:2305.13245)."""
    repeats = q_BLHD.shape[2] // k_BLGD.shape[2]
    if repeats > 1:
        k_BLGD, v_BLGD = k_BLGD.repeat_interleave(repeats, 2), v_BLGD.repeat_interleave(repeats, 2)
    return q_BLHD.transpose(1, 2), k_BLGD.transpose(1, 2), v_BLGD.transpose(1, 2)
