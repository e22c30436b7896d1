"""Dropout of the engine: the same for a row however it is packed, against the modules with masks set by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig

from rosepo_ray.errors import RosepoError
from rosepo_ray.policy import pretrained
from rosepo_ray.policy.engine import layout
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import causal_lm
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from rosepo_ray.row_dropout import keep_mask
from tests import tiny_models

RATE = 0.3
ROWS = [
    EncodedRow(EncodedPrompt([5, 6, 1, 7, 8]), [[7, 1]], [2]),  # goes its own way from the sequence's middle
    EncodedRow(EncodedPrompt([9, 1]), [[10, 11, 12, 1]]),
    EncodedRow(EncodedPrompt([3, 4, 1, 2, 2, 1, 9]), [[2, 2, 1], [9, 1]], [2, 5]),
]
SEEDS = [11, 12, 13]


def built(family: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(tiny_models.config(family, **changes))
    pretrained.remove_dropout(model)
    return model.train()


def logps(model: Any, rows: list[EncodedRow], seeds: list[int]) -> Tensor:
    return PackedPolicy(model)(layout.pack(rows, 0).dropping(RATE, seeds))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_row_is_dropped_alike_in_any_batch(family: str) -> None:
    model = built(family)
    together = logps(model, ROWS, SEEDS)
    alone = torch.cat([logps(model, [row], [seed]) for row, seed in zip(ROWS, SEEDS, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(logps(model, ROWS[::-1], SEEDS[::-1])[-1], together[0], atol=1e-5, rtol=0)
    plain = PackedPolicy(model)(layout.pack(ROWS, 0))
    assert float((together - plain).abs().min()) > 1e-4
    assert not torch.allclose(together, logps(model, ROWS, [1, 2, 3]), atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_drops_embeddings_and_what_each_block_adds(family: str) -> None:
    """The model's own forward pass over prompt + response, its modules' outputs multiplied by the masks by hand."""
    model = built(family)
    decoder = causal_lm(model).base_model
    layers = decoder.h if family == "gpt2" else decoder.layers
    row, seed = ROWS[1], SEEDS[1]
    ids = [*row.trunk.ids, *row.answers[0]]

    def dropped(place: int) -> Any:
        def hook(_: Any, __: Any, output: Tensor) -> Tensor:
            kept = keep_mask(torch.tensor([seed]), place, output[0].numel(), RATE).view_as(output)
            rate = round(RATE * 2**16) / 2**16
            return output * kept / (1 - rate)

        return hook

    if family == "gpt2":  # its embeddings are a sum, which goes through the module `drop`
        decoder.drop.register_forward_hook(dropped(0))
    else:
        decoder.embed_tokens.register_forward_hook(dropped(0))
    for number, layer in enumerate(layers):
        out = layer.attn.c_proj if family == "gpt2" else layer.self_attn.o_proj
        out.register_forward_hook(dropped(1 + 2 * number))
        layer.mlp.register_forward_hook(dropped(2 + 2 * number))
    found = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    places = torch.arange(len(row.trunk) - 1, len(ids) - 1)
    wanted = found[places, torch.tensor(row.answers[0])].sum()
    fresh = built(family)  # without hooks, which the engine's own calls of these modules would meet too
    torch.testing.assert_close(logps(fresh, [row], [seed])[0], wanted, atol=1e-4, rtol=0)


def test_recomputed_activations_are_dropped_alike() -> None:
    gradients = []
    for switched in (False, True):
        model = built("llama")
        if switched:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logps(model, ROWS, SEEDS).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*gradients)


def test_other_decoders_refuse_it() -> None:
    sizes = {**tiny_models._SIZES, "vocab_size": tiny_models.VOCABULARY}
    model = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, num_local_experts=2, attn_implementation="sdpa"))
    with pytest.raises(RosepoError, match=r"set sft.dropout 0"):
        logps(model, ROWS, SEEDS)
