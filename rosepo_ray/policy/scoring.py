"""Summed log-probabilities of any number of responses to each prompt, all responses of a prompt in one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.policy import batches
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.segments import EncodedRow
from rosepo_ray.training.buckets import Shape


def score(policy: Policy, requests: Sequence[Request], batch: int, tokens: int) -> list[np.ndarray]:
    """For each request the float32 log-probabilities [responses] of its titles with their end tokens.

    A forward pass takes at most `batch` rows and at most `tokens` tokens, padding included, which bounds its memory.
    Requests that follow each other with growing histories share a row (:func:`batches.encode_nested`). Rows are sorted
    by length so that little padding is computed. What has more responses than fit is given several rows, each with the
    prompt again; a single response that does not fit is a row of its own all the same.
    """
    nested = batches.encode_nested(policy, requests)
    rows = [row for row, _ in nested]
    places = [(number, piece) for number, row in enumerate(rows) for piece in _pieces(row, tokens)]
    pieces = [rows[number].pick(piece) for number, piece in places]
    scores = [np.empty(len(row.answers), np.float32) for row in rows]
    module = PackedPolicy(policy.model, policy.items).eval()
    with torch.inference_mode():
        for group in _groups([piece.shape for piece in pieces], batch, tokens):
            part = [pieces[index] for index in group]
            logps = module(pack(part, policy.pad_id).to(policy.device)).cpu().numpy()
            ends = np.cumsum([len(row.answers) for row in part])
            for index, found in zip(group, np.split(logps, ends[:-1]), strict=True):
                number, responses = places[index]
                scores[number][responses] = found
    ends = np.cumsum([len(request.responses) for request in requests])
    return np.split(np.concatenate(scores), ends[:-1]) if scores else []


def _pieces(row: EncodedRow, tokens: int) -> Iterator[slice]:
    """Runs of a row's responses that fit one row each."""
    start, used = 0, len(row.trunk)
    for number, path in enumerate(row.paths):
        if number > start and used + len(path) - 1 > tokens:
            yield slice(start, number)
            start, used = number, len(row.trunk)
        used += len(path) - 1
    if row.answers:
        yield slice(start, len(row.answers))


def _groups(shapes: Sequence[Shape], batch: int, tokens: int) -> Iterator[list[int]]:
    """Indices of rows that go through together, shortest first. Prompts and answers are padded apart."""
    group: list[int] = []
    widest = (0, 0)
    for index in sorted(range(len(shapes)), key=lambda number: sum(shapes[number])):
        wider = max(widest[0], shapes[index][0]), max(widest[1], shapes[index][1])
        if group and (len(group) == batch or (len(group) + 1) * sum(wider) > tokens):
            yield group
            group, wider = [], shapes[index]
        group.append(index)
        widest = wider
    if group:
        yield group
