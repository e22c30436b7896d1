"""Micro-batches of the language model: dense windows and single targets for SFT, packed pairs for alignment."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.shared_prefix.layout import PackedBatch, chain, pack
from rosepo_ray.training.loop import MicroBatch


def dense(policy: Policy, windows: Sequence[Sequence[str]], row_ids: list[str], real: bool) -> MicroBatch:
    """Windows of titles, oldest first: the loss falls on every title but the first, each seeing all before it.

    A window loses its oldest titles as a prompt does (:meth:`Prompter.latest`). `count` is the number of response
    tokens.
    """
    prompter = policy.prompter
    windows = [[*prompter.latest(window[:-1]), window[-1]] for window in windows]
    prompts = [prompter.prompt_ids(Request(window[:1])) for window in windows]
    answers = [[prompter.response_ids(title) for title in window[1:]] for window in windows]
    return _micro(chain(prompts, answers, policy.pad_id), row_ids, real)


def targets(policy: Policy, requests: Sequence[Request], row_ids: list[str], real: bool) -> MicroBatch:
    """One prompt and its single response per row. `count` is the number of response tokens."""
    return _micro(packed(policy, requests), row_ids, real)


def packed(policy: Policy, requests: Sequence[Request]) -> PackedBatch:
    prompter = policy.prompter
    prompts = [prompter.prompt_ids(request) for request in requests]
    answers = [[prompter.response_ids(title) for title in request.responses] for request in requests]
    return pack(prompts, answers, policy.pad_id)


def response_tokens(batch: PackedBatch) -> torch.Tensor:
    """Tokens of each response [R], end token included."""
    return torch.bincount(batch.owner_M, minlength=batch.responses)


def _micro(batch: PackedBatch, row_ids: list[str], real: bool) -> MicroBatch:
    return MicroBatch(batch, len(batch.target_M) if real else 0, row_ids, batch.tokens)
