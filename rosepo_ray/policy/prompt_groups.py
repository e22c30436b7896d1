"""Which prompts go through the model together, so that neither a pass nor its keys and values outgrow their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.segments import EncodedPrompt


def bytes_per_slot(policy: Policy) -> int:
    """Keys and values of one token in all layers."""
    model = causal_lm(policy.model)
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # The config's own dtype is a text once the model was saved.
    return int(2 * config.num_hidden_layers * heads * size * torch.finfo(model.dtype).bits // 8)


def together(
    policy: Policy, prompts: Sequence[EncodedPrompt], most: int, tokens: int, room: int, cache_mib: int, beams: int = 1
) -> Iterator[list[int]]:
    """Indices of prompts of similar length that are read together, shortest first: at most `most`, with at most
    `tokens` tokens, and with room for `room` more slots each in a cache of `cache_mib`; a single prompt always. Each
    prompt counts `beams` times.
    """
    slots = (cache_mib << 20) // bytes_per_slot(policy)
    group: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        size, length = len(group) + 1, len(prompts[index])
        rows = size * beams
        if group and (size > most or rows * length > tokens or rows * (length + room) > slots):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
