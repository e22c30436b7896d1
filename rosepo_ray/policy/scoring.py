"""Summed log-probabilities of any number of responses to each prompt, all responses of a prompt in one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.shared_prefix.layout import pack
from rosepo_ray.policy.shared_prefix.module import PackedPolicy


def score(policy: Policy, requests: Sequence[Request], batch: int) -> list[np.ndarray]:
    """For each request the float32 log-probabilities [responses] of its titles with their end tokens.

    Requests are scored `batch` at a time, sorted by length so that little padding is computed.
    """
    prompter = policy.prompter
    prompts = [prompter.prompt_ids(request) for request in requests]
    answers = [[prompter.response_ids(title) for title in request.responses] for request in requests]
    lengths = [len(p) + sum(len(ids) - 1 for ids in a) for p, a in zip(prompts, answers, strict=True)]
    order = sorted(range(len(requests)), key=lambda index: lengths[index])
    scores: list[np.ndarray] = [np.empty(0, np.float32)] * len(requests)
    module = PackedPolicy(policy.model).eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            here = [index for index in order[start : start + batch] if answers[index]]
            if not here:
                continue
            packed = pack([prompts[i] for i in here], [answers[i] for i in here], policy.pad_id)
            logps = module(packed.to(policy.device)).cpu().numpy()
            ends = np.cumsum([len(answers[i]) for i in here])
            for index, part in zip(here, np.split(logps, ends[:-1]), strict=True):
                scores[index] = part
    return scores
