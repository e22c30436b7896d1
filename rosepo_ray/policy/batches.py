"""Micro-batches of the language model: dense windows and single targets for SFT, packed pairs for alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rosepo_ray.policy.engine.layout import PackedBatch, chain, pack
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.segments import EncodedPrompt
from rosepo_ray.training.buckets import Shape
from rosepo_ray.training.program import MicroBatch


@dataclass(frozen=True)
class Encoded:
    """One row: its prompt, and its answers as token ids."""

    prompt: EncodedPrompt
    answers: list[list[int]]

    @property
    def shape(self) -> Shape:
        """Columns of the prompt, and tokens of the answers at most: common beginnings are counted each."""
        return len(self.prompt), sum(len(answer) - 1 for answer in self.answers)

    @property
    def chained(self) -> Shape:
        """The same where each answer follows the one before."""
        return len(self.prompt) + sum(map(len, self.answers)) - 1, 0


def encode(policy: Policy, request: Request) -> Encoded:
    """The prompt and the responses of a request."""
    prompter = policy.prompter
    return Encoded(prompter.prompt_ids(request), [prompter.response_ids(title) for title in request.responses])


def encode_window(policy: Policy, titles: Sequence[str]) -> Encoded:
    """A window of titles, oldest first: the first is the prompt, all others are predicted. A window that is too long
    loses its oldest titles as a prompt does (:meth:`Prompter.latest`)."""
    kept = [*policy.prompter.latest(titles[:-1]), titles[-1]]
    return encode(policy, Request(kept[:1], kept[1:]))


def dense(policy: Policy, rows: Sequence[Encoded], row_ids: list[str], real: bool) -> MicroBatch:
    """The loss falls on every title of a window but the first, each seeing all before it. `count` is the number of
    response tokens."""
    return _micro(chain([row.prompt for row in rows], [row.answers for row in rows], policy.pad_id), row_ids, real)


def targets(policy: Policy, rows: Sequence[Encoded], row_ids: list[str], real: bool) -> MicroBatch:
    """One prompt and its single response per row. `count` is the number of response tokens."""
    return _micro(packed(policy, rows), row_ids, real)


def packed(policy: Policy, rows: Sequence[Encoded]) -> PackedBatch:
    return pack([row.prompt for row in rows], [row.answers for row in rows], policy.pad_id)


def response_tokens(batch: PackedBatch) -> torch.Tensor:
    """Tokens of each response [R], end token included."""
    return torch.bincount(batch.owner_M, minlength=batch.responses)


def _micro(batch: PackedBatch, row_ids: list[str], real: bool) -> MicroBatch:
    return MicroBatch(batch, len(batch.target_M) if real else 0, row_ids, batch.tokens)
