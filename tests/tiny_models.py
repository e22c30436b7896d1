"""Tiny random language models of several families, saved as a user's own model folder would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from rosepo_ray.policy import scratch

VOCABULARY = 300
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def config(family: str, **changes: Any) -> Any:
    """The config of `llama`, `llama-tied`, `qwen2`, `qwen3` or `gpt2` (whose head is tied too)."""
    sizes = {**_SIZES, "vocab_size": VOCABULARY, **changes}
    if family == "gpt2":
        return GPT2Config(**{"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, **changes})
    if family == "qwen2":
        return Qwen2Config(**sizes)
    if family == "qwen3":
        return Qwen3Config(head_dim=16, **sizes)
    return LlamaConfig(tie_word_embeddings=family.endswith("-tied"), **sizes)


def save(folder: Path, family: str, titles: Sequence[str], seed: int = 0, **changes: Any) -> Path:
    """Model and byte-level tokenizer below `folder`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family, **changes))
    with torch.no_grad():  # the usual initialisation is so small that every title would be as likely as any other
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer = scratch.train_tokenizer(titles, [1] * len(titles), VOCABULARY, across_words=False)
    tokenizer.save_pretrained(folder)
    return folder


def stir_adapters(model: Any) -> None:
    """Fresh adapters change nothing: give them something to do."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
