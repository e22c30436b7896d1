"""The policy: a causal language model, its tokenizer and its prompt format, and what all uses of it compute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosepo_ray.config import PolicySettings, PromptSettings
from rosepo_ray.policy.packed import PackedBatch
from rosepo_ray.policy.prompts import Prompter

_LOGITS_AT_ONCE = 1 << 26  # float32 numbers (256 MiB): bounds memory for large vocabularies


@dataclass(frozen=True)
class Policy:
    """A language model that recommends by writing a title."""

    model: Any
    """A transformers causal language model, or a peft model around one."""
    tokenizer: PreTrainedTokenizerBase
    settings: PolicySettings
    prompt: PromptSettings

    @cached_property
    def prompter(self) -> Prompter:
        return Prompter(self.tokenizer, self.prompt)

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class PackedPolicy(nn.Module):
    """The module that training wraps: a packed batch in, summed log-probabilities of its responses out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> Tensor:
        """log pi(y|x) [R], float32: the sum over the title's tokens and its end token (DESIGN section 2)."""
        logps_M = token_logps(self.model, batch)
        return torch.zeros(batch.responses, device=logps_M.device).index_add(0, batch.owner_M, logps_M)


def causal_lm(model: Any) -> PreTrainedModel:
    """The transformers model inside a possible peft wrapper (whose adapters sit inside its modules)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def token_logps(model: Any, batch: PackedBatch) -> Tensor:
    """Log-probability [M] of each predicted token; only predicting positions go through the output head."""
    inner = causal_lm(model)
    decoder = getattr(inner, inner.base_model_prefix)
    head = inner.get_output_embeddings()
    hidden_BLH = decoder(
        input_ids=batch.input_ids_BL,
        attention_mask=batch.mask_B1LL,
        position_ids=batch.position_ids_BL,
        use_cache=False,
    ).last_hidden_state
    hidden_SH = hidden_BLH.flatten(0, 1)[batch.source_S]
    rows = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])
    if torch.is_grad_enabled() or len(hidden_SH) <= rows:
        return _gather(head(hidden_SH), batch.place_M, batch.target_M)
    # Without gradients the logits need not live together.
    logps_M = torch.empty(len(batch.place_M), device=hidden_SH.device)
    for start in range(0, len(hidden_SH), rows):
        here = (batch.place_M >= start) & (batch.place_M < start + rows)
        logits = head(hidden_SH[start : start + rows])
        logps_M[here] = _gather(logits, batch.place_M[here] - start, batch.target_M[here])
    return logps_M


def _gather(logits_SV: Tensor, place_M: Tensor, target_M: Tensor) -> Tensor:
    logits_SV = logits_SV.float()
    return logits_SV[place_M, target_M] - logits_SV.logsumexp(-1)[place_M]
