"""Rows of similar length in one forward pass. The gradient of a step does not ask in which pass a row went through, so
this changes neither the training order nor the result, only how much padding is computed."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, int]
"""Tokens of a row's prompt, and of what follows it: each part is padded to the longest of its pass."""

PASS_TOKENS = {"cpu": 64, "cuda": 4096}
"""What one more forward and backward pass costs beside its tokens, in tokens. On a CPU about 5 ms for a model that
needs 0.1 ms a token, and fewer tokens for a larger one; a GPU waits milliseconds for its launches (not measured)."""


def buckets(shapes: Sequence[Shape], most: int, device: str = "cpu") -> list[list[int]]:
    """Indices of rows in groups of at most `most`, shorter rows first; each row in exactly one group.

    Minimises the sum over the groups of rows * (longest prompt + longest rest) + PASS_TOKENS among all cuts of the rows
    in the order of their length, by dynamic programming over where the last group begins.
    """
    order = sorted(range(len(shapes)), key=lambda index: (sum(shapes[index]), index))
    extra = PASS_TOKENS.get(device, PASS_TOKENS["cuda"])
    cost, begin = [0], [0]
    for end in range(1, len(order) + 1):
        prompt = rest = best = 0
        first = end
        for start in range(end - 1, max(0, end - most) - 1, -1):
            prompt, rest = max(prompt, shapes[order[start]][0]), max(rest, shapes[order[start]][1])
            total = cost[start] + (end - start) * (prompt + rest) + extra
            if first == end or total < best:
                first, best = start, total
        cost.append(best)
        begin.append(first)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups[::-1]
