"""Free text: the title that a policy writes by itself, greedily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.prompt_groups import together
from rosepo_ray.policy.prompts import Request


def generate(
    policy: Policy, requests: Sequence[Request], batch: int, longest: int, *, tokens: int = 4096, cache_mib: int = 1024
) -> list[str]:
    """One text per request: greedy decoding until the end token or `longest` tokens. Text cut off is returned as is."""
    prompts = [policy.prompter.prompt_ids(request) for request in requests]
    written = write(policy, prompts, batch, longest, tokens=tokens, cache_mib=cache_mib)
    return [policy.prompter.written(row) for row in written]


def write(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    batch: int,
    longest: int,
    beams: int = 1,
    restrict: Callable[[int, Sequence[int]], LogitsProcessor] | None = None,
    *,
    tokens: int,
    cache_mib: int,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to the end token (without it) or `longest` of them.

    `batch` prompts go together at most, fewer where they have more than `tokens` tokens or would need more than
    `cache_mib` for keys and values, beams counted.
    One beam is greedy; of more the one with the highest summed log-probability wins. `restrict(width, which)`
    makes what may change the scores of the next token, for some of the prompts, padded to `width` columns.
    """
    found: list[list[int]] = [[] for _ in prompts]
    model, end_id = causal_lm(policy.model).eval(), policy.prompter.end_id
    plain = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        max_new_tokens=longest,
        eos_token_id=end_id,
        pad_token_id=policy.pad_id,
        **({"length_penalty": 0.0} if beams > 1 else {}),
    )
    with torch.inference_mode(), _without_defaults(model):
        for here in together(policy, prompts, batch, tokens, longest, cache_mib, beams):
            width = max(len(prompts[i]) for i in here)
            padded = torch.full((len(here), width), policy.pad_id)
            mask = torch.zeros((len(here), width), dtype=torch.long)
            for row, index in enumerate(here):
                padded[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
                mask[row, width - len(prompts[index]) :] = 1
            written = model.generate(
                input_ids=padded.to(policy.device),
                attention_mask=mask.to(policy.device),
                generation_config=plain,
                logits_processor=LogitsProcessorList([] if restrict is None else [restrict(width, here)]),
            )[:, width:].cpu()
            for row, index in enumerate(here):
                ids = written[row].tolist()
                found[index] = ids[: ids.index(end_id)] if end_id in ids else ids
    return found


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """transformers fills whatever a call leaves open from the model's own generation config: a repetition penalty that
    came with it would change what is measured."""
    held, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = held
