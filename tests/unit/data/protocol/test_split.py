import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.data.protocol import boundary, split
from rosepo_ray.data.protocol.boundary import Key, Window


def test_ranks_are_eight_one_one():
    assert split.time_ranks(10) == (8, 9)
    assert split.time_ranks(55_375) == (44_300, 49_837)  # 0.8 and 0.9 of it, rounded down
    assert split.time_ranks(3) == (2, 2)


def test_last_two_by_hand():
    # users with 4, 1, 3 and 2 kept interactions: those with fewer than three stay in training
    assert split.last_two(np.array([4, 1, 3, 2])).tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0, 0]
    assert split.last_two(np.array([0, 3, 0])).tolist() == [0, 1, 2]
    assert split.last_two(np.array([], int)).tolist() == []


@pytest.fixture
def narrow(monkeypatch):
    """Few bins and few keys at a time, so that small logs need many rounds."""
    monkeypatch.setattr(boundary, "BINS", 4)
    monkeypatch.setattr(boundary, "FETCH", 2)


def search(keys, rank, parts):
    """`find` over keys dealt out to `parts` partitions; returns the key and the most keys fetched at once."""
    spread = [keys[i::parts] for i in range(parts)]
    columns = [(np.array([k.timestamp for k in p], np.int64), np.array([k.tie for k in p], np.int64)) for p in spread]
    fetched = []

    def count(window):
        return sum(boundary.histogram(*part, window) for part in columns)

    def fetch(window):
        found = [
            k for p, part in zip(spread, columns, strict=True) for k, m in zip(p, window.mask(*part), strict=True) if m
        ]
        fetched.append(len(found))
        return found

    times, ties = [k.timestamp for k in keys], [k.tie for k in keys]
    window = Window(min(times), max(times), min(ties), max(ties))
    return boundary.find(rank, window, len(keys), count, fetch), fetched[-1]


INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.lists(
    st.tuples(st.one_of(st.integers(0, 3), INT64), st.one_of(st.integers(0, 2), INT64), st.sampled_from("abcé")),
    min_size=1,
    max_size=40,
    unique=True,
)


@given(keys=KEYS, data=st.data(), parts=st.integers(1, 3))
def test_search_finds_what_sorting_finds(keys, data, parts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "BINS", 4)
        patch.setattr(boundary, "FETCH", 2)
        rank = data.draw(st.integers(0, len(keys) - 1))
        found, _ = search([Key(*k) for k in keys], rank, parts)
        assert found == Key(*sorted(keys)[rank])


def test_search_never_collects_many_keys(narrow):
    # one timestamp for all of 1,000 interactions, told apart by their rows
    keys = [Key(7, row, "u") for row in range(1000)]
    found, fetched = search(keys, 800, 4)
    assert found == Key(7, 800, "u")
    assert fetched <= 2


def test_before_compares_time_then_tie_then_user():
    key = Key(5, 2, "m")
    times = np.array([4, 5, 5, 5, 5, 5, 6])
    ties = np.array([9, 1, 2, 2, 2, 3, 0])
    below = np.array(["z" < "m", "z" < "m", "a" < "m", "m" < "m", "z" < "m", "a" < "m", "a" < "m"])
    assert boundary.before(times, ties, below, key).tolist() == [True, True, True, False, False, False, False]
