"""The order of training: the same rows at the same step whatever the number of workers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.seeds import derive, hash_order
from rosepo_ray.training.order import steps


def ids_of(count: int):
    return lambda epoch: [f"u{n}:1" for n in range(count)]


def test_epoch_order_is_by_hash_of_seed_epoch_and_row():
    ids = ids_of(5)(0)
    by_hand = sorted(range(5), key=lambda n: derive(7, "order", 2, ids[n]))
    assert hash_order(7, 2, ids).tolist() == by_hand


@given(rows=st.integers(1, 30), batch=st.integers(1, 9), world=st.integers(1, 5), epochs=st.integers(1, 3))
def test_ranks_together_take_what_one_rank_takes(rows: int, batch: int, world: int, epochs: int):
    def plan(rank: int, size: int):
        return list(steps(ids_of(rows), seed=1, batch=batch, rank=rank, world=size, epochs=epochs))

    alone = plan(0, 1)
    shared = [plan(rank, world) for rank in range(world)]
    assert {len(part) for part in shared} == {len(alone)} == {-(-rows * epochs // batch)}
    for number, whole in enumerate(alone):
        together = [row for part in shared if part[number].real for row in part[number].rows]
        assert together == whole.rows
        assert all(part[number].rows for part in shared)  # a rank without rows repeats one, with weight zero
    seen = [row for part in alone for row in part.rows]
    assert sorted(seen) == sorted(itertools.product(range(epochs), range(rows)))


def test_starting_later_gives_the_same_steps():
    whole = list(steps(ids_of(10), seed=3, batch=4, epochs=3))
    assert list(steps(ids_of(10), seed=3, batch=4, epochs=3, start=5)) == whole[5:]


def test_endless_when_no_epochs_are_given():
    found = list(itertools.islice(steps(ids_of(3), seed=1, batch=2), 100))
    assert [part.step for part in found] == list(range(100))
    assert {epoch for part in found for epoch, _ in part.rows} == set(range(67))


@pytest.mark.parametrize("seed", [1, 2])
def test_another_seed_is_another_order(seed: int):
    first = hash_order(seed, 0, ids_of(50)(0))
    assert not np.array_equal(first, hash_order(seed + 10, 0, ids_of(50)(0)))
    assert not np.array_equal(first, hash_order(seed, 1, ids_of(50)(0)))
