"""Each written gradient against its module form, in double precision and by finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from rosepo_ray.config.policy import LoraSettings
from rosepo_ray.policy import pretrained
from rosepo_ray.policy.engine import ops, projection
from rosepo_ray.policy.engine.projection import project

DOUBLE = {"dtype": torch.float64, "requires_grad": True}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_rms_norm() -> None:
    norm = LlamaRMSNorm(6).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6, **DOUBLE)
    # transformers normalises in float32 whatever it is given.
    torch.testing.assert_close(ops.rms_norm(norm, x), norm(x), atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradcheck(lambda a, w: ops._RmsNorm.apply(a, w, 1e-3), (x, norm.weight))


def test_swiglu() -> None:
    gate, up = (torch.randn(2, 5, **DOUBLE) for _ in range(2))
    torch.testing.assert_close(ops.swiglu(gate, up), nn.functional.silu(gate) * up)
    assert torch.autograd.gradcheck(ops.swiglu, (gate, up))


def test_rotary_positions() -> None:
    x = torch.randn(2, 3, 2, 8, **DOUBLE)
    angles = torch.randn(2, 3, 4, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    wanted, _ = apply_rotary_pos_emb(
        x.transpose(1, 2), x.transpose(1, 2), torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    )
    found = ops.rotate(x, cos[:, :, None], sin[:, :, None])
    torch.testing.assert_close(found, wanted.transpose(1, 2))
    assert torch.autograd.gradcheck(lambda a: ops.rotate(a, cos[:, :, None], sin[:, :, None]), (x,))
    with torch.autocast("cpu", torch.bfloat16):  # the plain form
        torch.testing.assert_close(ops.rotate(x, cos[:, :, None], sin[:, :, None]), found)


class Two(nn.Module):
    """Two maps of one input, one with a bias, behind adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 5, bias=False)


def adapted(**changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    given = {"r": 2, "lora_alpha": 6, "lora_dropout": 0.0, "target_modules": ["first", "second"]} | changes
    model = get_peft_model(Two(), LoraConfig(**given)).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model.base_model.model


def test_adapters_in_the_weights_equal_adapters_in_the_outputs() -> None:
    maps = adapted()
    modules = (maps.first, maps.second)
    x = torch.randn(3, 2, 6, **DOUBLE)
    trained = [p for p in maps.parameters() if p.requires_grad]
    found = []
    for outputs in (project(modules, x), [one(x) for one in modules]):
        value = sum((out * torch.cos(torch.arange(out.numel()).view_as(out))).sum() for out in outputs)
        found.append([*outputs, *torch.autograd.grad(value, [x, *trained])])
    assert len(found[0]) == 2 + 1 + 4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert isinstance(project(modules, x), tuple)  # by the written form


def test_an_input_without_gradient_gets_none() -> None:
    maps = adapted()
    (out,) = project((maps.first,), torch.randn(3, 6, dtype=torch.float64))
    out.sum().backward()
    assert maps.first.lora_A["default"].weight.grad is not None


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True, "target_modules": ["first"]}]
)
def test_other_adapters_run_as_peft_has_them(changes: dict[str, Any]) -> None:
    maps = adapted(**changes).eval()
    assert not projection._plain_lora(maps.first)
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(project((maps.first,), x)[0], maps.first(x))


def test_merged_switched_off_or_thawed_adapters_run_as_peft_has_them() -> None:
    maps = adapted()
    assert projection._plain_lora(maps.first)
    maps.first.base_layer.weight.requires_grad_(True)
    assert not projection._plain_lora(maps.first)
    maps = adapted()
    maps.first.enable_adapters(False)
    assert not projection._plain_lora(maps.first)
    maps = adapted()
    maps.first.merge()
    assert not projection._plain_lora(maps.first)
    assert not projection._plain_lora(nn.Linear(2, 2))


def test_the_packages_own_adapters_are_plain() -> None:
    from transformers import AutoModelForCausalLM

    from tests import tiny_models

    model = pretrained.add_lora(AutoModelForCausalLM.from_config(tiny_models.config("qwen2")), LoraSettings(), seed=1)
    layer = model.get_base_model().base_model.layers[0]
    assert all(projection._plain_lora(one) for one in (layer.self_attn.q_proj, layer.mlp.down_proj))


def test_sums_are_formed_once_a_step_and_follow_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, x, formed = adapted(), torch.randn(3, 6, **DOUBLE), []
    modules, real = (maps.first, maps.second), torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *given, **how: (formed.append(1), real(*given, **how))[1])
    with torch.inference_mode():
        project(modules, x)  # scoring before training
    optimiser = torch.optim.AdamW([p for p in maps.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        for _ in range(2):  # micro-batches
            outputs = project(modules, x)
            for ours, module in zip(outputs, modules, strict=True):
                torch.testing.assert_close(ours, module(x))
            sum(out.square().sum() for out in outputs).backward()
        assert len(formed) == 2
        optimiser.step()
        optimiser.zero_grad()
        formed.clear()
        project(modules, x)
    state = {name: torch.randn_like(value) for name, value in maps.state_dict().items()}
    maps.load_state_dict(state)
    maps.first.scaling["default"] = 0.5
    for ours, module in zip(project(modules, x), modules, strict=True):
        torch.testing.assert_close(ours, module(x))
    maps.float()
    torch.testing.assert_close(project(modules, x.float())[0], maps.first(x.float()))


def test_a_backward_pass_after_a_change_fails() -> None:
    maps, x = adapted(), torch.randn(3, 6, **DOUBLE)
    (out,) = project((maps.first,), x)
    with torch.no_grad():
        maps.first.lora_B["default"].weight.add_(1)
    project((maps.first,), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
