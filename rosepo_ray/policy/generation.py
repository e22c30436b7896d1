"""Free text: the title that a policy writes by itself, greedily."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.prompts import Request


def generate(policy: Policy, requests: Sequence[Request], batch: int, longest: int) -> list[str]:
    """One text per request: greedy decoding until the end token or `longest` tokens. Text cut off is returned as is."""
    prompter = policy.prompter
    prompts = [prompter.prompt_ids(request) for request in requests]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    model = causal_lm(policy.model).eval()
    # A model's own defaults (a repetition penalty, say) would change what is measured.
    plain = GenerationConfig(
        do_sample=False, max_new_tokens=longest, eos_token_id=prompter.end_id, pad_token_id=policy.pad_id
    )
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            here = order[start : start + batch]
            width = max(len(prompts[i]) for i in here)
            ids = torch.full((len(here), width), policy.pad_id)
            mask = torch.zeros((len(here), width), dtype=torch.long)
            for row, index in enumerate(here):
                ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
                mask[row, width - len(prompts[index]) :] = 1
            written = model.generate(
                input_ids=ids.to(policy.device),
                attention_mask=mask.to(policy.device),
                generation_config=plain,
            )[:, width:].cpu()
            for row, index in enumerate(here):
                tokens = written[row].tolist()
                end = tokens.index(prompter.end_id) if prompter.end_id in tokens else len(tokens)
                texts[index] = prompter.written(tokens[:end])
    return texts
