"""Rows of a step in groups of similar length."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.training.buckets import PASS_TOKENS, Shape, buckets


def cost(shapes: list[Shape], groups: list[list[int]], extra: int = PASS_TOKENS["cpu"]) -> int:
    return sum(len(group) * sum(max(shapes[i][part] for i in group) for part in (0, 1)) + extra for group in groups)


@given(shapes=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 200)), max_size=7), most=st.integers(1, 7))
def test_every_row_once_and_no_grouping_of_sorted_rows_is_cheaper(shapes: list[Shape], most: int) -> None:
    groups = buckets(shapes, most)
    assert sorted(i for group in groups for i in group) == list(range(len(shapes)))
    assert all(len(group) <= most for group in groups)
    order = sorted(range(len(shapes)), key=lambda i: (sum(shapes[i]), i))
    allowed = []
    for count in range(len(shapes)):
        for borders in combinations(range(1, len(shapes)), count):
            edges = [0, *borders, len(shapes)]
            cut = [order[a:b] for a, b in pairwise(edges)]
            if all(len(group) <= most for group in cut):
                allowed.append(cost(shapes, cut))
    assert cost(shapes, groups) == min(allowed, default=0)


def of(*lengths: int) -> list[Shape]:
    return [(length, 0) for length in lengths]


def test_equal_rows_stay_together_and_unequal_ones_part() -> None:
    assert buckets(of(*[30] * 6), 32) == [[0, 1, 2, 3, 4, 5]]
    assert buckets(of(300, 20, 310, 25), 32) == [[1, 3], [0, 2]]
    assert sorted(len(group) for group in buckets(of(*[30] * 5), 2)) == [1, 2, 2]
    assert buckets([], 4) == []


def test_a_gpu_takes_as_many_rows_as_it_may() -> None:
    assert [len(group) for group in buckets(of(*range(20, 148, 4)), 32, "cuda")] == [32]
    assert len(buckets(of(*range(20, 148, 4)), 32)) > 1
