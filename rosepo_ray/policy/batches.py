"""Micro-batches of the language model: dense windows and single targets for SFT, packed pairs for alignment."""

from __future__ import annotations

from collections.abc import Sequence

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


def response_rows(policy: Policy, rows: Sequence[EncodedRow], row_ids: list[str], real: bool) -> MicroBatch:
    """The loss falls on every response of the rows. `count` is the number of their tokens."""
    batch = pack(rows, policy.pad_id)
    return MicroBatch(batch, len(batch.target_M) if real else 0, row_ids, batch.tokens)


def response_tokens(batch: PackedBatch) -> torch.Tensor:
    """Tokens of each response [R], end token included."""
    return torch.bincount(batch.owner_M, minlength=batch.responses)
