"""Two clocks in one log."""

import numpy as np
import pytest

from rosepo_ray.data.reading import clocks, parse_columns

BEGIN = 1_593_878_903


def spans(*times, kind=parse_columns.INTEGER):
    return clocks.spans(np.array(times, np.int64), np.full(len(times), kind, np.uint8))


def test_ranges_by_clock():
    found = spans(5, 10**8, 10**11 - 1, 10**11, 2 * 10**14, 10**18)
    assert found == [[1e8, 1e11 - 1], [1e11, 1e11], [2e14, 2e14], [1e18, 1e18]]
    assert spans(BEGIN * 1_000_000 + 500_000, kind=parse_columns.FRACTION) == [[BEGIN + 0.5] * 2, [], [], []]
    assert spans(10**15, kind=parse_columns.DATE) == spans() == spans(0, -(10**12)) == [[], [], [], []]


@pytest.mark.parametrize(("scale", "name"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_seconds_beside_finer_clocks(scale, name):
    years = 86_400 * 365
    parts = [spans(BEGIN - 20 * years, BEGIN), spans(), spans(BEGIN * scale, (BEGIN - 22 * years) * scale)]
    slow, fast = clocks.two_clocks(parts)
    assert slow == f"seconds (such as {BEGIN - 20 * years})"
    assert fast == f"{name} (such as {(BEGIN - 22 * years) * scale})"


@pytest.mark.parametrize(
    "times",
    [
        [],
        [0, 1, 2],
        [0, BEGIN],
        [BEGIN - 10**9, BEGIN + 10**9],
        [99_999_999_000, 100_000_000_000],  # a counter, or milliseconds of 1973
        range(10**8, 10**12, 10**10),
        [BEGIN * 10**3, 2 * 10**8],  # milliseconds, one of January 1970
    ],
)
def test_one_clock(times):
    assert clocks.two_clocks([spans(*times)]) is None
