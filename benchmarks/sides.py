"""The sides of a step that this repository writes itself: shared prefixes, and separate rows as controls.

All compute the same loss (conservative, stored reference log-probabilities) and end with the same clipping and AdamW
step on their own copy of the model. `separate` is what a careful user writes with transformers and peft: padding on the
right, where causal attention needs no mask, the head on response positions only, the last token never fed.
`separate_own` runs such rows through this package's own blocks: what then remains of a ratio is the sharing alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from workload import BETA, EPSILON, PAD, Examples

from rosepo_ray import losses
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import causal_lm
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from rosepo_ray.training.buckets import buckets

Logps = Callable[[Any, Examples], Tensor]
"""Summed log-probabilities [B * (1 + K)] of a batch's responses."""


def _row(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> EncodedRow:
    return EncodedRow(EncodedPrompt(list(prompt)), answers)


def packed_logps(model: Any, batch: Examples) -> Tensor:
    logps: Tensor = PackedPolicy(model)(pack(list(map(_row, batch.prompts, batch.responses)), PAD))
    return logps


Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompt and response."""


def separate_own_logps(model: Any, batch: Examples, rows: int = sys.maxsize) -> Tensor:
    """Each response with its own copy of the prompt, by the package's blocks, at most `rows` rows a pass."""

    def one_pass(pairs: Pairs) -> Tensor:
        packed = pack([_row(prompt, [answer]) for prompt, answer in pairs], PAD)
        logps: Tensor = PackedPolicy(model)(packed)
        return logps

    return _in_passes(one_pass, batch, rows)


def separate_logps(model: Any, batch: Examples, rows: int = sys.maxsize) -> Tensor:
    """Each response with its own copy of the prompt in its own row, at most `rows` rows a pass."""
    inner = causal_lm(model)

    def one_pass(pairs: Pairs) -> Tensor:
        length = max(len(prompt) + len(answer) - 1 for prompt, answer in pairs)
        ids = torch.full((len(pairs), length), PAD)
        owners: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        for number, (prompt, answer) in enumerate(pairs):
            ids[number, : len(prompt) + len(answer) - 1] = torch.tensor([*prompt, *answer[:-1]])
            owners += [number] * len(answer)
            positions += range(len(prompt) - 1, len(prompt) - 1 + len(answer))
            targets += answer
        hidden = getattr(inner, inner.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state
        owners_M = torch.tensor(owners)
        logits_MV = inner.get_output_embeddings()(hidden[owners_M, torch.tensor(positions)]).float()
        logps_M = logits_MV.gather(1, torch.tensor(targets)[:, None])[:, 0] - logits_MV.logsumexp(1)
        return torch.zeros(len(pairs)).index_add(0, owners_M, logps_M)

    return _in_passes(one_pass, batch, rows)


def _in_passes(one_pass: Callable[[Pairs], Tensor], batch: Examples, rows: int) -> Tensor:
    pairs = [(p, answer) for p, answers in zip(batch.prompts, batch.responses, strict=True) for answer in answers]
    return torch.cat([one_pass(pairs[start : start + rows]) for start in range(0, len(pairs), rows)])


OBJECTIVE = losses.Conservative(beta=BETA).build()


def loss_of(logps_R: Tensor, reference_R: Tensor, size: int, epsilon: float = EPSILON) -> Tensor:
    """The conservative loss, summed over the B = `size` examples, mean over the K pairs of each."""
    logps_BR, reference_BR = logps_R.view(size, -1), reference_R.view(size, -1)
    there_BR = torch.ones_like(logps_BR, dtype=torch.bool)
    names = [str(row) for row in range(size)]
    pairs = losses.Pairs(logps_BR, there_BR.long(), there_BR, names, reference_BR, torch.full_like(logps_BR, epsilon))
    return OBJECTIVE(pairs).sum()


class Step:
    """One optimiser step from token ids, `at_once` examples per forward and backward pass; None leaves it to the
    package, which groups rows by length."""

    def __init__(self, model: Any, logps: Logps, batch: Examples, at_once: int | None = None) -> None:
        self.model, self.logps, self.batch, self.at_once = model.train(), logps, batch, at_once
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=1e-4, weight_decay=0.01, foreach=True)
        with torch.no_grad():  # the reference is the start, as in training
            self.references = [logps(model, batch.pick([number])) for number in range(len(batch))]

    def _groups(self) -> list[list[int]]:
        rows = list(range(len(self.batch)))
        if self.at_once is None:
            return buckets([self.batch.shape(row) for row in rows], most=32)
        return [rows[start : start + self.at_once] for start in range(0, len(rows), self.at_once)]

    def __call__(self) -> None:
        for rows in self._groups():
            part, reference_R = self.batch.pick(rows), torch.cat([self.references[row] for row in rows])
            (loss_of(self.logps(self.model, part), reference_R, len(part)) / len(self.batch)).backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
