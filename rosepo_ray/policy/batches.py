"""Micro-batches of the language model: dense windows and single targets for SFT, packed pairs for alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.policy.engine.layout import PackedBatch, pack
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import TitlesPrompt
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from rosepo_ray.training.program import MicroBatch


def encode(policy: Policy, request: Request) -> EncodedRow:
    """The prompt and the responses of a request."""
    prompter = policy.prompter
    return EncodedRow(prompter.prompt_ids(request), [prompter.response_ids(title) for title in request.responses])


def encode_nested(policy: Policy, requests: Sequence[Request]) -> list[tuple[EncodedRow, range]]:
    """Rows for requests, in their order, and the numbers of the requests that each row holds.

    One request after the other goes into the same row as long as its history goes on from the one before and the
    prompts begin alike (they do not where one has lost its oldest titles); what then differs, the question of a worded
    prompt, is read before the responses. Each response has the log-probability of a row of its request alone. Responses
    stand in the order of their requests.
    """
    prompter = policy.prompter
    prompts = [prompter.prompt_ids(request) for request in requests]
    rows: list[tuple[EncodedRow, range]] = []
    start = 0
    for stop in range(1, len(requests) + 1):
        if stop == len(requests) or not _goes_on(requests[stop - 1 : stop + 1], prompts[stop - 1 : stop + 1]):
            here = range(start, stop)
            answers = [[prompter.response_ids(title) for title in requests[n].responses] for n in here]
            rows.append((_one_row(prompts[start:stop], answers), here))
            start = stop
    return rows


def _goes_on(requests: Sequence[Request], prompts: Sequence[EncodedPrompt]) -> bool:
    one, after = requests
    grows = list(after.history[: len(one.history)]) == list(one.history)
    return grows and 4 * _common(*prompts) >= len(prompts[0])


def _one_row(prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[Sequence[int]]]) -> EncodedRow:
    """The last prompt is the trunk, with its first response: in a sequence that is what came next, and the first
    responses of all others stand in the prompt already."""
    *_, trunk = prompts
    responses = [answer for each in answers for answer in each]
    if len(prompts) == 1:
        return EncodedRow(trunk, responses)
    after: list[int] = []
    leads: list[Sequence[int]] = []
    for prompt, each in zip(prompts, answers, strict=True):
        common = _common(prompt, trunk)
        after += [common - 1] * len(each)
        leads += [prompt.ids[common:]] * len(each)
    if answers[-1]:
        trunk = replace(trunk, ids=[*trunk.ids, *answers[-1][0][:-1]])
    return EncodedRow(trunk, responses, after, leads if any(leads) else None)


def _common(one: EncodedPrompt, other: EncodedPrompt) -> int:
    """How many columns both begin with. Behind it no items may stand: they are read in the trunk only."""
    count = next((n for n, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b), None)
    common = min(len(one), len(other)) if count is None else count
    mine, its = (tuple(at for at in prompt.items if at[0] < common) for prompt in (one, other))
    if mine != its or len(mine) < len(one.items):
        return 0
    return common


def encode_window(policy: Policy, window: Request) -> EncodedRow:
    """A window of titles, as a request's history: every title but the first is a response to those before it. A window
    that is too long loses its oldest titles as a prompt does (:meth:`Prompter.latest`)."""
    prompter = policy.prompter
    kept = window.since(prompter.latest(window.history[:-1]))
    sequence = prompter.titles(kept)
    answers = [prompter.response_ids(title) for title in kept.history[1:]]
    return EncodedRow(_read(sequence, len(answers[-1])), answers, sequence.ends[:-1])


def _read(sequence: TitlesPrompt, last: int) -> EncodedPrompt:
    """Without what only the last title's end would be read for: its end token, and its item."""
    length = sequence.ends[-2] + last
    return EncodedPrompt(sequence.prompt.ids[:length], [at for at in sequence.prompt.items if at[0] < length])


def response_rows(
    policy: Policy,
    rows: Sequence[EncodedRow],
    row_ids: list[str],
    real: bool,
) -> MicroBatch:
    """The loss falls on every response of the rows. `count` is the number of their tokens."""
    batch = pack(rows, policy.pad_id)
    return MicroBatch(batch, len(batch.target_M) if real else 0, row_ids, batch.tokens)


def response_tokens(batch: PackedBatch) -> torch.Tensor:
    """Tokens of each response [R], end token included."""
    return torch.bincount(batch.owner_M, minlength=batch.responses)
