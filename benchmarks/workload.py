"""The workload of the kernel benchmarks: a random Llama and random token ids of realistic lengths.

Random weights and tokens cost what real ones do; nothing here depends on what the tokens say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rosepo_ray.config.policy import LoraSettings
from rosepo_ray.policy.pretrained import add_lora

PAD, END, UNKNOWN = 0, 1, 2
FIRST_WORD = 3
BETA, EPSILON = 0.1, 0.2


@dataclass(frozen=True)
class Workload:
    """A model's shape and the lengths of prompts and titles (end token included), each drawn from a clipped normal or
    uniform distribution."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    prompt_tokens: tuple[int, int]
    """Shortest and longest; uniform between."""
    title_mean: float
    title_sd: float
    title_tokens: tuple[int, int]
    """Shortest and longest title, end token included; normal between."""
    lora: bool = True


ISSUE = Workload(512, 1408, 8, 8, 8192, (250, 310), 6.5, 2.6, (2, 14))
"""29.9 M parameters with tied embeddings; prompts of 280 tokens on average."""
LARGE = Workload(768, 2048, 12, 12, 52_000, (250, 310), 6.5, 2.6, (2, 14))
"""124.9 M parameters."""
QUICKSTART = Workload(128, 336, 4, 4, 4096, (20, 40), 3.0, 1.2, (2, 7), lora=False)
"""What the recipe of that name trains: 1.3 M parameters, all of them."""
TINY = Workload(32, 64, 2, 2, 128, (20, 30), 4.0, 1.0, (2, 6))
"""For a look whether a script runs; its times say nothing."""


def llama_config(workload: Workload) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.hidden,
        intermediate_size=workload.inner,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.heads,
        num_key_value_heads=workload.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
        attn_implementation="sdpa",
    )


def base_model(workload: Workload, seed: int = 1) -> Any:
    """The model without adapters, in fp32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama_config(workload))


def adapted_model(workload: Workload, seed: int = 1) -> Any:
    """The model as it is trained: behind fresh LoRA adapters (r=16 on all linear layers), or itself."""
    model = base_model(workload, seed)
    return add_lora(model, LoraSettings(), seed) if workload.lora else model


def shake(model: Any, seed: int = 3) -> None:
    """Move the adapters (or all weights) off their start, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)


@dataclass(frozen=True)
class Examples:
    """Prompts [B] and, per prompt, the responses [1 + K], chosen first, as token ids."""

    prompts: list[list[int]]
    responses: list[list[list[int]]]

    def __len__(self) -> int:
        return len(self.prompts)

    def pick(self, rows: list[int]) -> Examples:
        return Examples([self.prompts[row] for row in rows], [self.responses[row] for row in rows])

    def shape(self, row: int) -> tuple[int, int]:
        """Tokens of a prompt, and of its answers, that are fed."""
        return len(self.prompts[row]), sum(len(answer) - 1 for answer in self.responses[row])


def examples(workload: Workload, count: int, responses: int, seed: int = 2) -> Examples:
    """`count` prompts with `responses` titles each, the longest prompts last (as a run buckets its rows)."""
    rng = np.random.default_rng([seed, count, responses])

    def words(size: int) -> list[int]:
        return [int(word) for word in rng.integers(FIRST_WORD, workload.vocabulary, size)]

    shortest, longest = workload.prompt_tokens
    prompts = [words(size) for size in sorted(rng.integers(shortest, longest + 1, count))]
    lengths = np.clip(
        rng.normal(workload.title_mean, workload.title_sd, (count, responses)).round(), *workload.title_tokens
    ).astype(int)
    return Examples(prompts, [[[*words(size - 1), END] for size in row] for row in lengths])
