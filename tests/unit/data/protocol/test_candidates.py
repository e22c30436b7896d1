import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.data.protocol import candidates


def test_splitmix64_reference_values():
    # The published test vector of SplitMix64 with seed 1234567 (Vigna, prng.di.unimi.it): first two outputs.
    seed = np.array([1234567], np.uint64)
    first = candidates.mix64(seed + candidates._GAMMA)
    second = candidates.mix64(seed + candidates._GAMMA + candidates._GAMMA)
    assert first[0] == 6457827717110365317
    assert second[0] == 3203168211198807973


def test_draws_are_uniform_and_inside():
    drawn = candidates.draws(np.arange(2000, dtype=np.uint64), 0, 50, 7)
    assert drawn.min() == 0
    assert drawn.max() == 6
    counts = np.bincount(drawn.ravel(), minlength=7)
    expected = drawn.size / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi-square, 6 degrees of freedom, p = 0.001


def test_fresh_marks_first_occurrences_in_each_row():
    drawn = np.array([[3, 1, 3, 1, 2], [5, 4, 3, 2, 1]])
    assert candidates._fresh(drawn).tolist() == [[True, True, False, False, True], [True] * 5]


def one(seed, banned, count, size):
    matrix = np.zeros((1, size), bool)
    matrix[0, list(banned)] = True
    return candidates.others(np.array([seed], np.uint64), np.array([0]), matrix, count)[0].tolist()


@given(seed=st.integers(0, 2**63), size=st.integers(2, 40), data=st.data())
def test_others_are_distinct_allowed_and_fixed_by_the_seed(seed, size, data):
    banned = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    count = data.draw(st.integers(1, size - len(banned)))
    found = one(seed, banned, count, size)
    assert len(set(found)) == count
    assert not set(found) & banned
    assert found == one(seed, banned, count, size)
    # A shorter set is the beginning of a longer one: draws depend on nothing but the row's seed.
    assert found[: count // 2] == one(seed, banned, count, size)[: count // 2]


@given(seed=st.integers(0, 2**63), data=st.data())
def test_the_draw_stays_the_same_as_far_as_exclusion_allows(seed, data):
    banned = data.draw(st.sets(st.integers(0, 29), max_size=10))
    more = data.draw(st.sets(st.integers(0, 29), max_size=3))
    few, many = one(seed, banned, 10, 30), one(seed, banned | more, 10, 30)
    stay = [item for item in few if item not in more]
    assert many[: len(stay)] == stay


def test_rows_do_not_depend_on_the_rows_beside_them(monkeypatch):
    rng = np.random.default_rng(0)
    seeds, users = rng.integers(0, 2**63, 200).astype(np.uint64), rng.integers(0, 5, 200)
    banned = rng.random((5, 60)) < 0.5
    banned[4] = True
    banned[4, :12] = False
    together = candidates.others(seeds, users, banned, 12)
    apart = np.concatenate([candidates.others(seeds[i : i + 1], users[i : i + 1], banned, 12) for i in range(200)])
    np.testing.assert_array_equal(together, apart)
    monkeypatch.setattr(candidates, "_CELLS", 64)
    np.testing.assert_array_equal(together, candidates.others(seeds, users, banned, 12))


def test_every_set_is_equally_likely():
    # 2 of the 4 items that are not banned, in order: 12 outcomes
    seeds = candidates.row_seeds(np.zeros(12_000, np.uint64), np.arange(12_000))
    banned = np.array([[False, True, False, False, True, False]])
    found = candidates.others(seeds, np.zeros(12_000, int), banned, 2)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 12
    assert ((counts - 1000) ** 2 / 1000).sum() < 31.3  # chi-square, 11 degrees of freedom, p = 0.001


def test_target_goes_to_a_place_of_its_own_draw():
    others = np.arange(10, 15, dtype=np.int32)[None, :].repeat(6000, axis=0)
    seeds = candidates.row_seeds(np.full(6000, 3, np.uint64), np.arange(6000))
    placed = candidates.with_target(seeds, others, np.full(6000, 99))
    assert placed.shape == (6000, 6)
    np.testing.assert_array_equal(placed[placed != 99].reshape(6000, 5), others)
    slots = np.argmax(placed == 99, axis=1)
    counts = np.bincount(slots, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001
    other_target = candidates.with_target(seeds, others, np.full(6000, 7))
    np.testing.assert_array_equal(other_target == 7, placed == 99)


@pytest.mark.parametrize("size", [2, 3, 5, 1682, 2**20 + 1, 2**31 - 1])
def test_the_largest_draw_stays_inside(size):
    largest = np.float64(2**53 - 1)
    assert int(largest * (size / 2.0**53)) == size - 1
