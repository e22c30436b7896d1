"""Summed log-probabilities of packed responses, with gradients: what training, rejection and evaluation all compute."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rosepo_ray.errors import RosepoError
from rosepo_ray.policy.engine import gpt2, llama
from rosepo_ray.policy.engine.attention import additive
from rosepo_ray.policy.engine.layout import PackedBatch, pick
from rosepo_ray.policy.model import causal_lm
from rosepo_ray.policy.segments import Vectors, decoder_input, embed
from rosepo_ray.row_dropout import dropping

_ON_A_CPU, _ELSEWHERE = 1 << 22, 1 << 26


def logits_at_once(device: torch.device) -> int:
    """Logits (float32) that live together without gradients: 16 MiB stay in a CPU's cache while they are summed, 256
    MiB bound a GPU's memory."""
    return _ON_A_CPU if device.type == "cpu" else _ELSEWHERE


class PackedPolicy(nn.Module):
    """The module that training wraps: a packed batch in, summed log-probabilities of its responses out."""

    def __init__(self, model: nn.Module, items: nn.Module | None = None) -> None:
        """`items` gives the vectors of items in prompts (`segments.Vectors`)."""
        super().__init__()
        self.model, self.items = model, items

    def forward(self, batch: PackedBatch) -> Tensor:
        """log pi(y|x) [R], float32 or wider: the sum over the title's tokens and its end token (DESIGN section 2)."""
        logps_M = token_logps(self.model, batch, self.items)
        return logps_M.new_zeros(batch.responses).index_add(0, batch.owner_M, logps_M)


def token_logps(model: Any, batch: PackedBatch, items: Vectors | None = None) -> Tensor:
    """Log-probability [M] of each predicted token; only predicting columns go through the output head."""
    head = causal_lm(model).get_output_embeddings()
    hidden_NH = hidden(model, batch, items).flatten(0, 1)
    rows = max(1, logits_at_once(hidden_NH.device) // head.weight.shape[0])
    if torch.is_grad_enabled() or len(hidden_NH) <= rows:
        return _gather(_logits(head, hidden_NH), batch.place_M, batch.target_M)
    # Without gradients the logits need not live together.
    logps_M = torch.empty(len(batch.place_M), dtype=_wide(head.weight.dtype), device=hidden_NH.device)
    for start in range(0, len(hidden_NH), rows):
        here = (batch.place_M >= start) & (batch.place_M < start + rows)
        logits = _logits(head, hidden_NH[start : start + rows])
        logps_M[here] = _gather(logits, batch.place_M[here] - start, batch.target_M[here])
    return logps_M


def _logits(head: Any, hidden_NH: Tensor) -> Tensor:
    """Under autocast too in the head's own precision: bf16 would round a logit of 20 to the next eighth."""
    with torch.autocast(hidden_NH.device.type, enabled=False):
        return torch.as_tensor(head(hidden_NH.to(head.weight.dtype)))


def _gather(logits_NV: Tensor, place_M: Tensor, target_M: Tensor) -> Tensor:
    logits_NV = logits_NV.to(_wide(logits_NV.dtype))
    return logits_NV[place_M, target_M] - logits_NV.logsumexp(-1)[place_M]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def hidden(model: Any, batch: PackedBatch, items: Vectors | None = None) -> Tensor:
    """The last hidden state [B, Q, H] of the asked columns, as the output head takes it."""
    inner = causal_lm(model)
    decoder = getattr(inner, inner.base_model_prefix)
    family = family_of(decoder)
    if family is None:
        if batch.dropout is not None:
            raise RosepoError("this kind of model has no dropout here; set sft.dropout 0")
        return pick(_by_its_own_forward(decoder, batch, items), batch.ask_BQ)
    layers = decoder.h if family is gpt2 else decoder.layers
    x, turn = family.place(decoder, embed(decoder, batch.input_ids_BL, batch.items_E3, items), batch)
    x = x if batch.dropout is None else batch.dropout(x, 0)
    dtype = _precision(x)
    tree = None if batch.seen_BSL is None else additive(batch.seen_BSL, dtype)[:, None]
    for number, layer in enumerate(layers[:-1]):
        x = _run(family.block, layer, x, turn, tree, dropping(batch.dropout, number))
    last = len(layers) - 1
    if 2 * batch.ask_BQ.shape[1] > x.shape[1]:  # dense training: nearly every column is asked
        x = pick(_run(family.block, layers[-1], x, turn, tree, dropping(batch.dropout, last)), batch.ask_BQ)
    else:
        asked = additive(batch.asked_BQL(), dtype)[:, None]
        there = None if batch.dropout is None else batch.dropout.at(batch.ask_BQ)
        x = _run(family.last_block, layers[-1], x, turn, asked, batch.ask_BQ, dropping(there, last))
    return family.normalise(decoder, x)


def family_of(decoder: Any) -> ModuleType | None:
    """The module that knows this decoder's blocks; None where only its own forward pass is known."""
    return next((family for family in (llama, gpt2) if family.supports(decoder)), None)


def _precision(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _run(block: Any, *arguments: Any) -> Tensor:
    # transformers marks each layer when gradient checkpointing is switched on.
    layer = arguments[0]
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


def _by_its_own_forward(decoder: Any, batch: PackedBatch, items: Vectors | None) -> Tensor:
    """[B, L, H] by the decoder itself, told by a 4-D mask who sees whom."""
    return decoder(
        **decoder_input(decoder, batch.input_ids_BL, batch.items_E3, items),
        attention_mask=None if batch.seen_BSL is None else additive(batch.seen_BLL(), torch.float32)[:, None],
        position_ids=batch.position_ids_BL,
        use_cache=False,
    ).last_hidden_state
