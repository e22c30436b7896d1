"""Dropout that follows the row: its rate, its independence of the batch, and the generator behind it."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import RosepoError
from rosepo_ray.row_dropout import keep_mask, mix64, row_dropout
from rosepo_ray.seeds import mix64 as mix64_numpy


def test_mix64_is_splitmix64():
    # First outputs of SplitMix64 seeded with 1234567, as listed in the generator's public test vectors.
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * gamma) % 2**64 for i in (1, 2, 3)], dtype=np.uint64)
    assert mix64_numpy(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_torch_and_numpy_agree_bit_for_bit(values):
    unsigned = np.array(values, dtype=np.uint64)
    ours = mix64(torch.from_numpy(unsigned.view(np.int64))).numpy().view(np.uint64)
    assert ours.tolist() == mix64_numpy(unsigned).tolist()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
def test_rate_and_scale(rate):
    values = torch.ones(400, 25, 40)
    dropped = row_dropout(values, rate, torch.arange(400), 3)
    share = (dropped == 0).float().mean().item()
    assert share == pytest.approx(rate, abs=5 * (rate * (1 - rate) / values.numel()) ** 0.5)
    # The survivors carry 1 / (1 - rate), with the rate rounded to 2^-16.
    assert dropped.max().item() == pytest.approx(1 / (1 - rate), rel=2e-4)


def test_zero_rate_changes_nothing_and_a_rate_of_one_is_refused():
    values = torch.randn(3, 5)
    assert torch.equal(row_dropout(values, 0.0, torch.arange(3), 0), values)
    with pytest.raises(RosepoError, match="outside"):
        row_dropout(values, 1.0, torch.arange(3), 0)


@given(st.permutations(list(range(6))), st.integers(1, 6))
def test_a_row_is_dropped_the_same_alone_or_in_any_batch(order, size):
    values = torch.ones(6, 7, 3)
    seeds = torch.tensor([5, -9, 2**62, 0, 1, 2])
    whole = row_dropout(values, 0.4, seeds, 1)
    for start in range(0, 6, size):
        rows = torch.tensor(order[start : start + size])
        assert torch.equal(row_dropout(values[rows], 0.4, seeds[rows], 1), whole[rows])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    row_dropout(torch.ones(4, 9), 0.5, torch.arange(4), 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_purposes_and_neighbours_are_independent():
    mask = keep_mask(torch.arange(2000), 1, 64, 0.5).double()
    other = keep_mask(torch.arange(2000), 2, 64, 0.5).double()
    bound = 5 / (2000 * 63) ** 0.5  # five standard errors of a correlation of fair coins

    def correlation(a, b):
        return ((a - 0.5) * (b - 0.5)).mean().item() * 4

    assert abs(correlation(mask[:-1], mask[1:])) < bound
    assert abs(correlation(mask[:, :-1], mask[:, 1:])) < bound
    assert abs(correlation(mask, other)) < bound


def test_speed_is_of_the_order_of_torch_dropout():
    values, seeds = torch.randn(128, 10, 64), torch.arange(128)

    def best(run):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    ours = best(lambda: row_dropout(values, 0.2, seeds, 1))
    theirs = best(lambda: torch.nn.functional.dropout(values, 0.2))
    assert ours < 5 * theirs  # measured: half of it
