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

    One request after the other goes into the same row as long as its history goes on from the one before, and its
    prompt is the beginning of one that fits (`titles` prompts only): what the row gives each response is what a row of
    the request alone gives. Responses stand in the order of their requests.
    """
    rows: list[tuple[EncodedRow, range]] = []
    start = 0
    for stop in range(1, len(requests) + 1):
        if stop == len(requests) or not _goes_on(policy, requests[stop - 1], requests[stop]):
            rows.append((_one_row(policy, requests[start:stop]), range(start, stop)))
            start = stop
    return rows


def _goes_on(policy: Policy, one: Request, after: Request) -> bool:
    shown = len(one.history)
    return (
        policy.prompt.template == "titles"
        and list(after.history[:shown]) == list(one.history)
        and (one.history_ids is None) == (after.history_ids is None)
        and list((after.history_ids or ())[:shown]) == list(one.history_ids or ())
        and policy.prompter.latest(after.history) == 0
    )


def _one_row(policy: Policy, requests: Sequence[Request]) -> EncodedRow:
    *_, last = requests
    if len(requests) == 1:
        return encode(policy, last)
    prompter = policy.prompter
    answers = [prompter.response_ids(title) for request in requests for title in request.responses]
    sequence = prompter.titles(last)
    trunk = sequence.prompt
    if last.responses:  # the first one, since it is what came next: all others of a sequence stand in it already
        trunk = replace(trunk, ids=[*trunk.ids, *prompter.response_ids(last.responses[0])[:-1]])
    after = [sequence.ends[len(request.history) - 1] for request in requests for _ in request.responses]
    return EncodedRow(trunk, answers, after)


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
    dropout: float = 0.0,
    row_seeds: Sequence[int] = (),
) -> MicroBatch:
    """The loss falls on every response of the rows. `count` is the number of their tokens. With `dropout` activations
    are dropped, by masks that the seed of each row fixes."""
    batch = pack(rows, policy.pad_id)
    if dropout:
        batch = batch.dropping(dropout, row_seeds)
    return MicroBatch(batch, len(batch.target_M) if real else 0, row_ids, batch.tokens)


def response_tokens(batch: PackedBatch) -> torch.Tensor:
    """Tokens of each response [R], end token included."""
    return torch.bincount(batch.owner_M, minlength=batch.responses)
