"""Does the packed path give this model's own log-probabilities? Asked once, before a model is trained.

Packed rows run the blocks of known families as written in `shared_prefix`, and call any other decoder with a 4-D mask
and explicit positions. A model whose forward pass does more (scales or caps its logits), or that ignores mask or
positions, would be wrong without a word.
"""

from __future__ import annotations

import math

import torch

from rosepo_ray.errors import BadInput
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.shared_prefix.layout import pack
from rosepo_ray.policy.shared_prefix.module import PackedPolicy

TOLERANCE = 1e-3
"""Absolute, per response; fp32 on both sides differs by about 1e-5."""


def check(policy: Policy, titles: list[str]) -> None:
    """Compare packed rows with plain forward passes on a few titles. Raises BadInput where they differ."""
    prompter = policy.prompter
    history, answers = titles[:2], [prompter.response_ids(title) for title in titles[:3]]
    prompts = [prompter.prompt_ids(Request(history[:n], (), titles[:3])) for n in (1, 2)]
    batch, packed_policy = pack(prompts, [answers, answers], policy.pad_id), PackedPolicy(policy.model)
    with torch.inference_mode():
        try:
            training = packed_policy.train()(batch).tolist()
            packed = packed_policy.eval()(batch).tolist()
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(
                f"this model cannot be used with packed rows ({error}); use a Llama, Qwen or GPT-2 kind"
            ) from error
        plain = [_plain(policy, prompt, answer) for prompt in prompts for answer in answers]
    if not all(map(math.isfinite, plain)):
        raise BadInput(
            "this model gives log-probabilities that are not finite: its weights are broken; save them again"
        )
    worst = max(abs(a - b) for a, b in zip(packed, plain, strict=True))
    if not worst <= TOLERANCE:
        raise BadInput(
            f"packed rows give this model log-probabilities that differ by {worst:.3g} from its own forward pass; its "
            "architecture is not supported, use a Llama, Qwen or GPT-2 kind"
        )
    random = max(abs(a - b) for a, b in zip(training, packed, strict=True))
    if not random <= TOLERANCE:
        raise BadInput(
            f"in training this model gives log-probabilities that differ by {random:.3g} from its own: it adds noise "
            "that is no dropout, so no run could be repeated; use a Llama, Qwen or GPT-2 kind"
        )


def _plain(policy: Policy, prompt: list[int], answer: list[int]) -> float:
    logits = policy.model(input_ids=torch.tensor([[*prompt, *answer]], device=policy.device)).logits[0].float()
    logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(logps[torch.arange(len(answer)), torch.tensor(answer)].sum())
