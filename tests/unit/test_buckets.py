"""Rows of a step in groups of similar length."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.training.buckets import PASS_TOKENS, buckets


def cost(lengths: list[int], groups: list[list[int]]) -> int:
    return sum(len(group) * max(lengths[i] for i in group) + PASS_TOKENS for group in groups)


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 400), max_size=8), most=st.integers(1, 8))
def test_every_row_once_and_no_grouping_of_sorted_rows_is_cheaper(lengths: list[int], most: int) -> None:
    groups = buckets(lengths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) <= most for group in groups)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    allowed = []
    for count in range(len(lengths)):
        for borders in combinations(range(1, len(lengths)), count):
            edges = [0, *borders, len(lengths)]
            cut = [order[a:b] for a, b in pairwise(edges)]
            if all(len(group) <= most for group in cut):
                allowed.append(cost(lengths, cut))
    assert cost(lengths, groups) == min(allowed, default=0)


def test_equal_rows_stay_together_and_unequal_ones_part() -> None:
    assert buckets([30] * 6, 32) == [[0, 1, 2, 3, 4, 5]]
    assert buckets([300, 20, 310, 25], 32) == [[1, 3], [0, 2]]
    assert sorted(len(group) for group in buckets([30] * 5, 2)) == [1, 2, 2]
    assert buckets([], 4) == []
