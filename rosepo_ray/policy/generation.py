"""Free text: the title that a policy writes by itself, greedily or sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.prompt_groups import together
from rosepo_ray.policy.segments import EncodedPrompt, decoder_input, item_places
from rosepo_ray.seeds import derive


def generate(
    policy: Policy, requests: Sequence[Request], batch: int, longest: int, *, tokens: int = 4096, cache_mib: int = 1024
) -> list[str]:
    """One text per request: greedy decoding until the end token or `longest` tokens. Text cut off is returned as is."""
    prompts = [policy.prompter.prompt_ids(request) for request in requests]
    written = write(policy, prompts, batch, longest, tokens=tokens, cache_mib=cache_mib)
    return [policy.prompter.written(row) for row in written]


def sample(
    policy: Policy,
    requests: Sequence[Request],
    names: Sequence[str],
    batch: int,
    longest: int,
    *,
    seed: int,
    temperature: float,
    tokens: int = 4096,
    cache_mib: int = 1024,
) -> list[str]:
    """One text per request, drawn from the policy at `temperature` with noise fixed by (seed, its name) alone: the
    same in any batch. Two requests that should differ need two names."""
    prompts = [policy.prompter.prompt_ids(request) for request in requests]

    def noise(rows: list[int], width: int) -> LogitsProcessor:
        return GumbelNoise([names[row] for row in rows], width, seed, temperature)

    written = write(policy, prompts, batch, longest, adjust=noise, tokens=tokens, cache_mib=cache_mib)
    return [policy.prompter.written(row) for row in written]


class GumbelNoise(LogitsProcessor):
    """Makes the greedy choice a draw from softmax(logits / temperature): argmax(logits / T + Gumbel noise) (Gumbel
    1954; Maddison et al. 2014, arXiv:1411.0030). The noise of a row's n-th token is fixed by (seed, name, n)."""

    def __init__(self, names: Sequence[str], width: int, seed: int, temperature: float) -> None:
        self.names, self.width, self.seed, self.temperature = names, width, seed, temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        noise = torch.stack([self._row(name, step, scores.shape[1]) for name in self.names])
        return scores / self.temperature + noise.to(scores.device)

    def _row(self, name: str, step: int, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive(self.seed, "sampled text", name, step))
        return -torch.empty(size).exponential_(generator=generator).log()


def write(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    batch: int,
    longest: int,
    beams: int = 1,
    adjust: Callable[[list[int], int], LogitsProcessor] | None = None,
    *,
    tokens: int,
    cache_mib: int,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to the end token (without it) or `longest` of them.

    `batch` prompts go together at most, fewer where they have more than `tokens` tokens or would need more than
    `cache_mib` for keys and values, beams counted.
    One beam is greedy; of more the one with the highest summed log-probability wins. `adjust(rows, width)` makes what
    may change the scores of the next token, for those prompts, padded to `width` columns.
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
            some = [prompts[i] for i in here]
            width = max(map(len, some))
            begins = [width - len(prompt) for prompt in some]
            padded = torch.full((len(here), width), policy.pad_id)
            for row, (prompt, begin) in enumerate(zip(some, begins, strict=True)):
                padded[row, begin:] = torch.tensor(prompt.ids)
            mask = (torch.arange(width) >= torch.tensor(begins)[:, None]).long()
            ids = padded.to(policy.device)
            written = model.generate(
                **{"input_ids": ids, **decoder_input(model, ids, item_places(some, begins), policy.items)},
                attention_mask=mask.to(policy.device),
                generation_config=plain,
                logits_processor=LogitsProcessorList([] if adjust is None else [adjust(here, width)]),
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
