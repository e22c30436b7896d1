"""Does this package's own way through the model give the model's own log-probabilities? Asked before any training.

Packed rows run the blocks of known families as written in `engine`, and call any other decoder with a 4-D mask
and explicit positions; the search through the catalogue reads on top of cached prompts. A model whose forward pass does
more (scales or caps its logits), or that ignores mask or positions, would be wrong without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.errors import BadInput
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.search.ranking import score_all
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow

TOLERANCE = 1e-3
"""Absolute, of a response's log-probability, and relative, of a gradient; fp32 on both sides differs by about 1e-5."""
_KINDS = "use a Llama, Qwen or GPT-2 kind"


def refuse_other_arithmetic(policy: Policy, titles: list[str]) -> None:
    """Compare packed rows, their gradient, and cached reading with plain forward passes on a few titles.

    Raises BadInput where they differ. Fresh adapters, which change nothing yet, are given something to change for it.
    """
    prompter = policy.prompter
    few = titles[:3]
    answers = [prompter.response_ids(title) for title in few]
    prompts = [prompter.prompt_ids(Request(titles[:n], (), few)) for n in (1, 2)]
    batch = pack([EncodedRow(prompt, answers) for prompt in prompts], policy.pad_id)
    packed_policy = PackedPolicy(policy.model)
    with _shaken_adapters(policy.model):
        plain = torch.stack([_plain(policy, prompt, answer) for prompt in prompts for answer in answers])
        if not all(map(math.isfinite, plain.tolist())):
            raise BadInput(
                "this model gives log-probabilities that are not finite: its weights are broken; save them again"
            )
        try:
            training = packed_policy.train()(batch)
            gradient = _gradient(policy.model, training)
            with torch.inference_mode():
                packed = packed_policy.eval()(batch)
                cached = score_all(policy, TitleTrie.build(prompter, few, few), prompts)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadInput(f"this model cannot be used with packed rows ({error}); {_KINDS}") from error
        wanted = _gradient(policy.model, plain)
    for name, found in (("packed rows give", packed), ("cached prompts give", torch.from_numpy(cached).flatten())):
        _refuse(name, "log-probabilities", float((found - plain.detach()).abs().max()))
    random = float((training - packed).detach().abs().max())
    if not random <= TOLERANCE:
        raise BadInput(
            f"in training this model gives log-probabilities that differ by {random:.3g} from its own: it adds noise "
            f"that is no dropout, so no run could be repeated; {_KINDS}"
        )
    _refuse("packed rows give", "gradients", float((gradient - wanted).norm() / wanted.norm().clamp_min(1e-12)))


def _refuse(what: str, which: str, difference: float) -> None:
    if not difference <= TOLERANCE:
        raise BadInput(
            f"{what} this model {which} that differ by {difference:.3g} from those of its own forward pass; its "
            f"architecture is not supported, {_KINDS}"
        )


def _plain(policy: Policy, prompt: EncodedPrompt, answer: Sequence[int]) -> Tensor:
    logits = policy.model(input_ids=torch.tensor([[*prompt.ids, *answer]], device=policy.device)).logits[0].float()
    logps: Tensor = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logps[torch.arange(len(answer)), torch.tensor(answer)].sum()


def _gradient(model: Any, logps: Tensor) -> Tensor:
    """Of the weights in training, flat: the responses count differently, so that none can stand in for another."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    value = (logps * torch.cos(torch.arange(len(logps), device=logps.device))).sum()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return torch.cat([part.flatten() for part in found if part is not None])


@contextmanager
def _shaken_adapters(model: Any) -> Iterator[None]:
    fresh = [(w, w.detach().clone()) for name, w in model.named_parameters() if "lora_B" in name]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for weight, _ in fresh:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
        yield
    finally:
        with torch.no_grad():
            for weight, before in fresh:
                weight.copy_(before)
