from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.data.protocol import selection, user_log
from rosepo_ray.data.reading.parse_columns import DATE, FRACTION, INTEGER
from rosepo_ray.errors import BadInput
from rosepo_ray.run.sources import build


def window(**data):
    return selection.window(build({"data": data}).data)


def inside(within, times, kinds):
    return selection.inside(within, np.array(times), np.array(kinds, np.uint8)).tolist()


def test_a_window_begins_at_its_first_time_and_ends_before_its_last():
    within = window(since=3, until=5)
    assert inside(within, [2, 3, 4, 5], [INTEGER] * 4) == [False, True, True, False]
    assert inside(within, [2_999_999, 3_000_000, 4_999_999, 5_000_000], [FRACTION] * 4) == [False, True, True, False]
    kinds = [INTEGER, INTEGER, FRACTION, FRACTION]
    assert inside(window(since=2.5), [2, 3, 2_400_000, 2_500_000], kinds) == [False, True, False, True]
    assert inside(window(), [1, 2], [DATE, DATE]) == [True, True]
    day = 86_400_000_000
    for until in ("1970-01-03", date(1970, 1, 3), datetime(1970, 1, 3)):  # as YAML reads it
        assert inside(window(until=until), [day, 2 * day], [DATE, DATE]) == [True, False]
    assert inside(window(since=2**63 - 1), [2**63 - 2, 2**63 - 1], [INTEGER] * 2) == [False, True]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"since": "soon"}, "data.since is 'soon', which is no time"),
        ({"until": ""}, "data.until is '', which is no time"),
        ({"since": 7, "until": 7}, "data.since 7 does not come before data.until 7"),
        ({"since": 7, "until": "2020-01-01"}, "give two numbers or two dates"),
    ],
)
def test_a_window_that_cannot_be(data, said):
    with pytest.raises(BadInput, match=said):
        window(**data)


def test_a_window_and_a_log_with_other_clocks():
    with pytest.raises(BadInput, match=r"data\.since is a date, but the times of the log are numbers"):
        inside(window(since="2020-01-01"), [1], [INTEGER])
    with pytest.raises(BadInput, match=r"data\.until is a number, but the times of the log are dates"):
        inside(window(until=7), [1], [DATE])


def test_a_window_needs_a_time():
    with pytest.raises(BadInput, match=r"data\.until needs a time, but data\.columns\.time is null"):
        build({"data": {"sample": "none", "interactions": "x", "items": "y", "columns": {"time": None}, "until": 7}})


def test_a_larger_sample_holds_a_smaller_one():
    users = [f"u{n}" for n in range(2000)]
    some, more = (selection.sampled(users, share, 0) for share in (0.3, 0.5))
    assert 0.26 < some.mean() < 0.34
    assert not (some & ~more).any()
    assert (selection.sampled(users, 0.3, 1) != some).any()
    assert selection.sampled(users, 1.0, 0).all()


def a_log(events):
    """(user, item, kept) in order of time."""
    users = sorted({user for user, *_ in events})
    rows = sorted((users.index(user), time, item, kept) for time, (user, item, kept) in enumerate(events))
    user, time, item, kept = (np.array(column) for column in zip(*rows, strict=True))
    return user_log.UserLog(users, user, item, time, kept)


def told(log):
    columns = zip(log.user_N, log.item_N, log.time_N, log.kept_N, strict=True)
    return [(log.users[user], int(item), int(time), bool(kept)) for user, item, time, kept in columns]


def test_a_subset_keeps_the_users_that_still_have_something():
    log = a_log([("a", 0, True), ("b", 1, True), ("a", 2, False), ("c", 0, True)])
    left = selection.subset(log, np.array([False, True, False, True]))
    assert left.users == ["a", "c"]
    assert told(left) == [("a", 2, 2, False), ("c", 0, 3, True)]
    assert selection.subset(log, np.zeros(4, bool)).users == []


def test_overactive_users():
    log = a_log([("a", 0, True), ("b", 1, True), ("a", 2, False), ("a", 3, True)])
    assert selection.not_overactive(log, 3).all()
    assert selection.not_overactive(log, 2).tolist() == [False, False, False, True]


EVENT = st.tuples(st.sampled_from("abcd"), st.integers(0, 4), st.booleans())


@given(events=st.lists(EVENT, min_size=1, max_size=40), min_user=st.integers(0, 4), min_item=st.integers(0, 4))
def test_rounds_over_the_items_end_in_the_core(events, min_user, min_item):
    log = a_log(events)
    alive_I = np.ones(5, bool)
    for _ in range(6):
        mask = selection.frequent(log, alive_I, min_user)
        alive_I &= np.bincount(log.item_N[mask & log.kept_N], minlength=5) >= min_item
    found = told(selection.subset(log, selection.frequent(log, alive_I, min_user)))
    left, before = told(log), None
    while left != before:  # whoever has too few goes, until none has
        before = left
        for place, least in ((0, min_user), (1, min_item)):
            kept = [row[place] for row in left if row[3]]
            left = [row for row in left if kept.count(row[place]) >= least]
    assert found == left
