"""The order of scored items: the best first, ties by row and item, whatever order the items came in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray import seeds
from rosepo_ray.catalogue.ranks import top

few = st.sampled_from([-np.inf, -2.0, -1.5, 0.0, 1.0, np.inf])  # so that most scores are equal to others


@given(scores=st.lists(few, min_size=1, max_size=30), count=st.integers(1, 35), row=st.text(max_size=3), data=st.data())
def test_the_first_places_are_those_of_a_full_sort(scores: list[float], count: int, row: str, data: st.DataObject):
    items = [f"i{n}" for n in range(len(scores))]
    ties = seeds.tie_break(row, items)
    plain = sorted(range(len(scores)), key=lambda n: (-scores[n], ties[n]))
    assert top(row, items, np.array(scores), count).tolist() == plain[:count]
    without = data.draw(st.lists(st.integers(0, len(scores) - 1)))
    rest = [n for n in plain if n not in without]
    assert top(row, items, np.array(scores), count, without).tolist() == rest[:count]


@given(scores=st.lists(few, min_size=2, max_size=12), count=st.integers(1, 12), data=st.data())
def test_the_order_in_which_items_came_decides_nothing(scores: list[float], count: int, data: st.DataObject):
    items = [f"i{n}" for n in range(len(scores))]
    moved = data.draw(st.permutations(range(len(scores))))
    best = [items[n] for n in top("row", items, np.array(scores), count)]
    shuffled = [items[n] for n in moved]
    assert [shuffled[n] for n in top("row", shuffled, np.array(scores)[list(moved)], count)] == best


def test_rows_order_ties_differently():
    items, scores = [f"i{n}" for n in range(8)], np.zeros(8)
    assert len({tuple(top(f"row {n}", items, scores, 8)) for n in range(20)}) > 10
