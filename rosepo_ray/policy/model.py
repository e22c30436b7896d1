"""The policy: a causal language model, its tokenizer and its prompt format, and what all uses of it compute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosepo_ray.config.policy import PolicySettings, PromptSettings
from rosepo_ray.policy.item_vectors import ItemVectors
from rosepo_ray.policy.prompts import Prompter


@dataclass(frozen=True)
class Policy:
    """A language model that recommends by writing a title."""

    model: Any
    """A transformers causal language model, or a peft model around one."""
    tokenizer: PreTrainedTokenizerBase
    settings: PolicySettings
    prompt: PromptSettings
    items: ItemVectors | None = None
    """Gives the vectors of items in prompts; None where prompts are text."""

    @cached_property
    def prompter(self) -> Prompter:
        return Prompter(self.tokenizer, self.prompt, self.items)

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def causal_lm(model: Any) -> PreTrainedModel:
    """The transformers model inside a possible peft wrapper (whose adapters sit inside its modules)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
