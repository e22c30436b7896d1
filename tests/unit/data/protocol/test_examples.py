import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.data.protocol import examples, hashes, user_log
from rosepo_ray.data.reading import parse_columns
from rosepo_ray.errors import BadInput

ITEMS = pa.array([f"i{n:02d}" for n in range(12)])


def rows(events, kind=parse_columns.INTEGER):
    """(user, item number, time, rating) as a table of partition.ROWS, the row number being the place in the list."""
    users, items, times, ratings = zip(*events, strict=True)
    size = len(events)
    columns = [users, items, times, np.full(size, kind, np.uint8), ratings, np.arange(size)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, user_log.ROWS, strict=True)], schema=user_log.ROWS)


def ordered(events, **how):
    usual = {"one_file": True, "min_rating": None, "fractions": False, "repeats": False}
    return user_log.order(rows(events), items=len(ITEMS), **{**usual, **how})


def listed(log):
    return [(log.users[u], int(i)) for u, i in zip(log.user_N, log.item_N, strict=True)]


def test_order_by_time_then_row_or_item():
    events = [("b", 5, 2, None), ("a", 9, 7, None), ("a", 3, 7, None), ("a", 1, 8, None), ("a", 4, 1, None)]
    assert listed(ordered(events)[0]) == [("a", 4), ("a", 9), ("a", 3), ("a", 1), ("b", 5)]
    assert listed(ordered(events, one_file=False)[0]) == [("a", 4), ("a", 3), ("a", 9), ("a", 1), ("b", 5)]


def test_the_first_of_duplicates_stays_even_if_a_later_one_is_rated_better():
    events = [("a", 1, 5, 5.0), ("a", 1, 2, 2.0), ("a", 2, 3, 4.0), ("a", 1, 9, 5.0)]
    log, duplicates, ratings = ordered(events, min_rating=4)
    assert duplicates == 2
    assert listed(log) == [("a", 1), ("a", 2)]
    assert ratings.tolist() == [2.0, 4.0]
    assert log.kept_N.tolist() == [False, True]


@pytest.mark.parametrize("ratings", [(1.0, 5.0), (5.0, 1.0)])
def test_copies_that_differ_in_the_rating_alone_count_as_the_lowest_whatever_their_order(ratings):
    log, duplicates, kept = ordered([("a", 1, 5, r) for r in ratings], one_file=False, min_rating=3)
    assert duplicates == 1
    assert kept.tolist() == [1.0]
    assert log.kept_N.tolist() == [False]


def test_whole_times_are_scaled_where_others_have_decimals():
    log, _, _ = ordered([("a", 1, 5, None), ("a", 2, 3, None)], fractions=True)
    assert log.time_N.tolist() == [3_000_000, 5_000_000]
    with pytest.raises(BadInput, match="decimals"):
        ordered([("a", 1, 2**62, None)], fractions=True)


def test_a_log_survives_storage():
    log, _, _ = ordered([("é", 1, 5, 5.0), ("a", 2, 2, 2.0), ("a", 1, 3, 4.0)], min_rating=4)
    again = user_log.UserLog.from_table(log.to_table())
    assert again.users == log.users == ["a", "é"]
    for name in ("user_N", "item_N", "time_N", "kept_N"):
        np.testing.assert_array_equal(getattr(again, name), getattr(log, name))


def test_partitions_are_stable():
    # zlib.crc32(b"a") = 3904355907, of "b" 1908338681, of "é" (UTF-8) 235179326
    assert user_log.partition_of(pa.array(["a", "b", "a", "é"]), 1000).tolist() == [907, 681, 907, 326]


# One user's log, written out. Ratings below 4 are not kept. Time boundary: validation from t=5, test from t=6.
#   t: 1  2  3  4  5  6  7
#   i: 0  1  2  3  4  5  6
#   r: 5  1  5  5  5  5  2
EVENTS = [
    ("u", i, t, r) for i, (t, r) in enumerate([(1, 5.0), (2, 1.0), (3, 5.0), (4, 5.0), (5, 5.0), (6, 5.0), (7, 2.0)])
]


def built(events, splitter, repeats=False, **settings):
    log, _, _ = ordered(events, min_rating=4, repeats=repeats)
    how = {"history": 2, "count": 3, "seed": 0, "repeats": repeats, **settings}
    return examples.build(log, splitter(log), ITEMS, **how)


def by_time(validation, test):
    return lambda log: examples.split_by_time(log, validation, test)


def test_tables_of_a_time_split_by_hand():
    tables = built(EVENTS, by_time(5, 6))
    assert tables.sequences.to_pylist() == [{"user_id": "u", "items": ["i00", "i02", "i03"]}]
    assert tables.taken.to_pylist() == [
        {
            "user_id": "u",
            "training": ["i00", "i01", "i02", "i03"],
            "whole": ["i00", "i01", "i02", "i03", "i04", "i05", "i06"],
        }
    ]
    found = [
        {k: row[k] for k in ("example_id", "history", "target", "split", "seen")} for row in tables.examples.to_pylist()
    ]
    assert found == [
        {"example_id": "u:1", "history": ["i00"], "target": "i02", "split": "train", "seen": 2},
        {"example_id": "u:2", "history": ["i00", "i02"], "target": "i03", "split": "train", "seen": 3},
        {"example_id": "u:3", "history": ["i02", "i03"], "target": "i04", "split": "validation", "seen": 4},
        {"example_id": "u:4", "history": ["i03", "i04"], "target": "i05", "split": "test", "seen": 5},
    ]
    assert tables.popularity.tolist() == [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_tables_of_last_two_by_hand():
    tables = built(EVENTS, examples.split_last_two)
    # Kept: 0 2 3 | 4 | 5. Item 6 (not kept) comes after the validation item, so it is no training interaction.
    assert tables.sequences.to_pylist() == [{"user_id": "u", "items": ["i00", "i02", "i03"]}]
    assert tables.taken["training"].to_pylist() == [["i00", "i01", "i02", "i03"]]
    assert tables.examples["split"].to_pylist() == ["train", "train", "validation", "test"]
    short = built([("v", 1, 1, 5.0), ("v", 2, 2, 5.0), ("v", 3, 3, 1.0)], examples.split_last_two)
    assert short.taken["training"].to_pylist() == [["i01", "i02", "i03"]]
    assert short.examples["split"].to_pylist() == ["train"]


def test_repeats_by_hand():
    """Item 0 at 1, 2 and 6, item 1 at 2 and 5, and copies of three of these events; item 0 is rated low at 2."""
    events = [("u", 0, 1, 5.0), ("u", 0, 2, 1.0), ("u", 1, 2, 5.0), ("u", 1, 2, 5.0), ("u", 1, 5, 5.0)]
    events += [("u", 0, 6, 5.0), ("u", 0, 1, 5.0), ("u", 0, 2, 5.0), ("v", 0, 1, 5.0)]
    log, duplicates, _ = ordered(events, min_rating=4, repeats=True)
    assert (listed(log)[:5], duplicates) == ([("u", 0), ("u", 0), ("u", 1), ("u", 1), ("u", 0)], 3)
    tables = built(events, by_time(5, 6), repeats=True, count=11)
    assert tables.sequences.to_pylist()[0] == {"user_id": "u", "items": ["i00", "i01"]}
    assert tables.taken.to_pylist()[0] == {"user_id": "u", "training": ["i00", "i01"], "whole": ["i00", "i01"]}
    rows = tables.examples.to_pylist()
    assert [(row["history"], row["target"], row["seen"]) for row in rows] == [
        (["i00"], "i01", 0),
        (["i00", "i01"], "i01", 0),
        (["i01", "i01"], "i00", 0),
    ]
    for row in rows:  # all but the two items that were taken, and the target among them
        assert sorted(row["candidates"]) == sorted([row["target"], *ITEMS.to_pylist()[2:]])


def test_training_candidates_avoid_the_past_and_the_others_all_that_was_taken():
    # With 6 candidates: 5 others. Validation and test: exactly the five items that the user never took.
    tables = built(EVENTS, by_time(5, 6), count=6)
    never, never_in_training = set(ITEMS.to_pylist()[7:]), set(ITEMS.to_pylist()[4:])
    later = set()
    for row in tables.examples.to_pylist():
        others = set(row["candidates"]) - {row["target"]}
        if row["split"] == "train":
            assert others < never_in_training
            later |= others & {"i04", "i05", "i06"}
        else:
            assert others == never
    assert later  # the items of the future are ordinary negatives for a training row


def test_a_user_without_room_for_candidates_is_told():
    with pytest.raises(BadInput, match=r"user 'u' took 7 of the 12 items, which leaves 5 .* --data.candidates to 6 "):
        built(EVENTS, by_time(5, 6), count=7)


def test_candidates_depend_on_seed_user_and_position_alone():
    def drawn(events, **settings):
        table = built(events, by_time(5, 6), count=5, **settings).examples.to_pylist()
        return {row["example_id"]: [c for c in row["candidates"] if c != row["target"]] for row in table}

    def places(events):
        table = built(events, by_time(5, 6), count=5).examples.to_pylist()
        return [row["candidates"].index(row["target"]) for row in table]

    swapped = [*EVENTS[:4], ("u", 5, 5, 5.0), ("u", 4, 6, 5.0), EVENTS[6]]  # the targets of u:3 and u:4 change places
    assert drawn(swapped) == drawn(EVENTS)
    assert places(swapped) == places(EVENTS)
    assert drawn(EVENTS, seed=1) != drawn(EVENTS)
    beside = [("a", 11, 1, 5.0), *EVENTS, ("z", 3, 1, 5.0), ("z", 4, 9, 5.0)]
    assert {k: v for k, v in drawn(beside).items() if k[0] == "u"} == drawn(EVENTS)


EVENT = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.integers(0, 6), st.integers(0, 5), st.sampled_from([1.0, 4.0, 5.0])
)


@given(
    events=st.lists(EVENT, min_size=1, max_size=30),
    border=st.integers(0, 6),
    kind=st.sampled_from(["time", "last_two"]),
    history=st.integers(1, 4),
)
def test_invariants_of_any_log(events, border, kind, history):
    splitter = by_time(border, border + 1) if kind == "time" else examples.split_last_two
    log, duplicates, _ = ordered(events, min_rating=4)
    assert len(log.user_N) + duplicates == len(events)
    tables = examples.build(log, splitter(log), ITEMS, history=history, count=4, seed=0, repeats=False)
    sequences = {row["user_id"]: row["items"] for row in tables.sequences.to_pylist()}
    taken = {row["user_id"]: row for row in tables.taken.to_pylist()}
    assert sorted(taken) == sorted({event[0] for event in events})
    rows = tables.examples.to_pylist()
    assert len(rows) == sum(max(0, n - 1) for n in log.kept_lengths)
    assert len({row["example_id"] for row in rows}) == len(rows)
    for row in rows:
        user, target, own = row["user_id"], row["target"], row["candidates"]
        assert 1 <= len(row["history"]) <= history
        assert target not in row["history"]
        assert len(set(own)) == 4
        assert own.count(target) == 1
        seen = taken[user]["whole"][: row["seen"]]
        assert taken[user]["whole"][row["seen"]] == target
        assert set(row["history"]) <= set(seen)
        banned = taken[user]["training" if row["split"] == "train" else "whole"]
        assert not set(own) - {target} & set(banned) - {target}
        if row["split"] != "train":
            assert target not in sequences.get(user, [])
            assert target not in taken[user]["training"]
    assert tables.popularity.sum() == sum(len(items) for items in sequences.values())


@given(events=st.lists(EVENT, min_size=2, max_size=20, unique_by=lambda e: e[:2]), data=st.data())
def test_row_order_does_not_matter_when_times_differ(events, data):
    timed = [(user, item, time, rating) for time, (user, item, _, rating) in enumerate(events)]
    shuffled = data.draw(st.permutations(timed))
    one, other = (built(list(e), by_time(4, 8)) for e in (timed, shuffled))
    assert one.examples.equals(other.examples)
    assert one.sequences.equals(other.sequences)
    assert one.taken.equals(other.taken)


def test_hashes_tell_logs_apart_but_not_layouts():
    events = [("a", 1, 1, 5.0), ("b", 2, 2, 4.0), ("b", 3, 3, None)]

    def total(some):
        log, _, ratings = ordered(some)
        return hashes.log_sum(log, ratings, ITEMS)

    whole = total(events)
    assert hashes.add(total(events[1:]), total(events[:1])) == whole
    assert total(events[::-1]) == whole
    for place, value in ((0, "c"), (1, 7), (2, 9), (3, 3.0)):
        changed = [tuple(value if i == place else v for i, v in enumerate(events[0])), *events[1:]]
        assert total(changed) != whole
    assert hashes.digest(whole, seed=0) != hashes.digest(whole, seed=1)


def test_table_hash_is_a_sum_over_rows():
    table = built(EVENTS, by_time(5, 6)).examples
    assert hashes.add(*(hashes.table_sum(table.slice(i, 1)) for i in (2, 0, 3, 1))) == hashes.table_sum(table)
    assert hashes.table_sum(table.slice(1)) != hashes.table_sum(table)
