"""Packed rows of plain lists, as the tests of the engine write them."""

from __future__ import annotations

from collections.abc import Sequence

from rosepo_ray.policy.engine import layout
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow

Answers = Sequence[Sequence[Sequence[int]]]


def pack(prompts: Sequence[EncodedPrompt], answers: Answers, pad_id: int) -> layout.PackedBatch:
    """All responses of a row follow its prompt."""
    return layout.pack([EncodedRow(*each) for each in zip(prompts, answers, strict=True)], pad_id)


def chain(prompts: Sequence[EncodedPrompt], answers: Answers, pad_id: int) -> layout.PackedBatch:
    """Each response of a row follows the one before."""
    rows = []
    for prompt, responses in zip(prompts, answers, strict=True):
        flat = [token for response in responses for token in response]
        trunk = EncodedPrompt([*prompt.ids, *flat[:-1]], prompt.items)
        lengths = [len(prompt), *map(len, responses[:-1])]
        rows.append(EncodedRow(trunk, responses, [sum(lengths[: n + 1]) - 1 for n in range(len(responses))]))
    return layout.pack(rows, pad_id)
