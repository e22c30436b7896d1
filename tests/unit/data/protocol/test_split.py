import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.data.protocol import split
from rosepo_ray.errors import BadInput


def test_ranks_are_eight_one_one():
    assert split.time_ranks(10) == (8, 9)
    assert split.time_ranks(55_375) == (44_300, 49_837)  # 0.8 and 0.9 of it, rounded down
    assert split.time_ranks(3) == (2, 2)


def test_last_two_by_hand():
    # users with 4, 1, 3 and 2 kept interactions: those with fewer than three stay in training
    assert split.last_two(np.array([4, 1, 3, 2])).tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0, 0]
    assert split.last_two(np.array([0, 3, 0])).tolist() == [0, 1, 2]
    assert split.last_two(np.array([], int)).tolist() == []


def search(times, rank, parts, bins):
    """`find_cut` over times dealt out to `parts` partitions, and how many rounds of counting it took."""
    spread = [np.array(times[i::parts], np.int64) for i in range(parts)]
    rounds = []

    def count(low, high):
        rounds.append((low, high))
        return sum(split.histogram(part, low, high) for part in spread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "BINS", bins)
        return split.find_cut(rank, min(times), max(times), count), len(rounds)


TIMES = st.lists(st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=40)


@given(times=TIMES, data=st.data(), parts=st.integers(1, 3), bins=st.sampled_from([2, 4, 1 << 16]))
def test_the_cut_is_as_near_as_any_time_could_be(times, data, parts, bins):
    rank = data.draw(st.integers(0, len(times) - 1))
    cut, _ = search(times, rank, parts, bins)
    assert cut.before == sum(time < cut.time for time in times)
    possible = {sum(time < moment for time in times) for moment in {*times, max(times) + 1}}
    assert abs(cut.before - rank) == min(abs(before - rank) for before in possible)


def test_the_cut_by_hand():
    times = [1, 2, 2, 2, 2, 2, 5, 5, 9, 9]
    assert search(times, 8, 2, 4)[0] == (9, 8)  # 8 before 9: exact
    assert search(times, 7, 2, 4)[0] == (5, 6)  # 6 before 5 and 8 up to it are as near: the earlier
    assert search(times, 5, 2, 4)[0] == (3, 6)  # 1 before 2, 6 up to it
    assert search(times, 2, 2, 4)[0] == (2, 1)


def test_few_rounds_of_counting_are_enough_for_any_range():
    assert search([-(2**63), 0, 1, 2**63 - 1], 2, 1, 1 << 16) == ((1, 2), 4)
    assert search(list(range(1000)), 800, 4, 1 << 16) == ((800, 800), 1)


def test_a_split_that_stays_empty_is_refused():
    with pytest.raises(BadInput, match="all 9 interactions have one and the same time"):
        split.refuse_empty(split.Cut(5, 0), split.Cut(5, 0), 9, one_time=True)
    for before, name in (((0, 4), "train"), ((4, 4), "validation"), ((4, 9), "test")):
        with pytest.raises(BadInput, match=f"of 9 interactions by time leaves the {name} split empty"):
            split.refuse_empty(split.Cut(1, before[0]), split.Cut(2, before[1]), 9, one_time=False)
    split.refuse_empty(split.Cut(1, 7), split.Cut(2, 8), 9, one_time=False)
