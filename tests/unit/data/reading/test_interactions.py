import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rosepo_ray.config.data import Columns, DataSettings, TextFormat
from rosepo_ray.data.reading import interactions, items, parse_columns
from rosepo_ray.data.reading.files import locate
from rosepo_ray.data.reading.readers import Batch
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import schemas


def test_ids_become_strings_without_a_decimal_point():
    assert parse_columns.ids(pa.array([1, 20]), untyped=False).to_pylist() == ["1", "20"]
    assert parse_columns.ids(pa.array([1.0, 20.0, None, float("nan"), 1e15]), untyped=False).to_pylist() == [
        "1",
        "20",
        None,
        None,
        "1000000000000000",
    ]
    assert parse_columns.ids(pa.array(["007", " a ", "", None]), untyped=False).to_pylist() == ["007", "a", None, None]
    assert parse_columns.ids(pa.array(["a", "b", "a"]).dictionary_encode(), untyped=False).to_pylist() == [
        "a",
        "b",
        "a",
    ]


def test_ids_of_text_files_lose_the_ending_that_missing_values_leave():
    assert parse_columns.ids(pa.array(["12.0", "0.05", "v1.0", "12"]), untyped=True).to_pylist() == [
        "12",
        "0.05",
        "v1.0",
        "12",
    ]
    assert parse_columns.ids(pa.array(["12.0"]), untyped=False).to_pylist() == ["12.0"]


@pytest.mark.parametrize(
    ("given", "expected", "kind"),
    [
        (pa.array([5, -1]), [5, -1], parse_columns.INTEGER),
        (pa.array(["881250949", " 7 "]), [881250949, 7], parse_columns.INTEGER),
        (pa.array(["9007199254740993"]), [9007199254740993], parse_columns.INTEGER),  # 2^53 + 1 is no float
        (pa.array([881250949.0, 3.0]), [881250949, 3], parse_columns.INTEGER),
        (pa.array(["881250949.0", "8.5e2"]), [881250949, 850], parse_columns.INTEGER),
        (pa.array([decimal.Decimal("1.50")]), [1_500_000], parse_columns.FRACTION),
        (pa.array(["1970-01-01T00:00:01Z"]), [1_000_000], parse_columns.DATE),
        (pa.array(["1970-01-01 00:00:01", "1970-01-02"]), [1_000_000, 86_400_000_000], parse_columns.DATE),
        (pa.array(["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00.5"]), [0, 500_000], parse_columns.DATE),
        (pa.array([dt.datetime(1970, 1, 1, 0, 0, 2)]), [2_000_000], parse_columns.DATE),
        (pa.array([dt.date(1970, 1, 2)]), [86_400_000_000], parse_columns.DATE),
    ],
)
def test_times(given, expected, kind):
    found, kinds = parse_columns.times(given)
    assert found.to_pylist() == expected
    assert found.type == pa.int64()
    assert kinds.tolist() == [kind] * len(given)


@pytest.mark.parametrize("given", [pa.array([1.5, 2.0]), pa.array(["1.5", "2"]), pa.array(["1.5", "2.0"])])
def test_each_time_is_whole_or_not_whatever_its_neighbours(given):
    found, kinds = parse_columns.times(given)
    assert found.to_pylist() == [1_500_000, 2]
    assert kinds.tolist() == [parse_columns.FRACTION, parse_columns.INTEGER]


def test_one_time_with_decimals_leaves_the_others_exact():
    found, kinds = parse_columns.times(pa.array([1_600_000_000_123.0, 2.0**62, 0.25, None]))
    assert found.to_pylist() == [1_600_000_000_123, 2**62, 250_000, None]
    assert kinds.tolist()[:3] == [parse_columns.INTEGER, parse_columns.INTEGER, parse_columns.FRACTION]


@pytest.mark.parametrize("other", ["soon", "", "1.5", "1e3", "2020-01-01"])
def test_whole_numbers_in_text_stay_exact_beside_anything_else(other):
    nanoseconds = [1_600_000_000_123_456_789, 1_600_000_000_123_456_788, -9_007_199_254_740_993]
    found, kinds = parse_columns.times(pa.array([*map(str, nanoseconds), "+7", other]))
    assert found.to_pylist()[:4] == [*nanoseconds, 7]
    assert kinds.tolist()[:4] == [parse_columns.INTEGER] * 4


@pytest.mark.parametrize("kind", [pa.time32("s"), pa.duration("s")])
def test_a_time_of_day_or_a_duration_is_no_time(kind):
    assert parse_columns.times(pa.array([1, 2]).cast(pa.int32() if kind == pa.time32("s") else pa.int64()).cast(kind))[
        0
    ].to_pylist() == [None, None]


@pytest.mark.parametrize(("kind", "digits"), [(pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53)])
def test_ids_beyond_what_a_float_tells_apart_are_none(kind, digits):
    given = np.array([2**digits - 1, 2**digits, -(2**digits), 7.5, np.inf, np.nan], kind.to_pandas_dtype())
    assert parse_columns.ids(pa.array(given), untyped=False).to_pylist() == [
        str(2**digits - 1),
        None,
        None,
        "7.5",
        None,
        None,
    ]
    assert parse_columns.inexact(pa.array(given)).tolist() == [False, True, True, False, True, False]


def test_bad_rows_tell_a_lost_id_from_a_missing_one():
    users = pa.array([2.0**53, None, 1.0])
    rows = interactions.normalise(batch(user=users, item=["1", "2", "3"]), timed=False, rating_needed=False)
    assert rows.interactions["user_id"].to_pylist() == ["1"]
    assert rows.reasons[0].startswith("has no user id that can be told apart from others, since floats")
    assert rows.reasons[0].endswith("('9007199254740992.0')")
    assert rows.reasons[1] == "has no user id"


def test_item_ids_that_floats_lost(tmp_path):
    pq.write_table(pa.table({"item_id": [2.0**60, 1.0], "title": ["A", "B"]}), tmp_path / "items.parquet")
    with pytest.raises(BadInput, match=r"1 of 2 items .* row 1 of .*items\.parquet, which has no id that"):
        items.read_items(locate(str(tmp_path / "items.parquet"), "items"), Columns())


@pytest.mark.parametrize(
    "genres", [[{"name": "x"}], [[{"name": "x"}]], [b"\xff"], pa.array([b"\xff"]).view(pa.string())]
)
def test_genres_of_another_kind_are_passed_over(tmp_path, genres):
    pq.write_table(pa.table({"item_id": [1], "title": ["A"], "genres": genres}), tmp_path / "items.parquet")
    table = items.read_items(locate(str(tmp_path / "items.parquet"), "items"), Columns()).items
    assert table["genres"].to_pylist() == [None]


def test_times_that_cannot_be_read_are_null():
    found, _ = parse_columns.times(pa.array(["10", "yesterday", "2020-13-45", "", None, "2020-02-01"]))
    assert [value is None for value in found.to_pylist()] == [False, True, True, True, True, False]
    found, _ = parse_columns.times(pa.array([1.0, float("nan"), float("inf"), 1e30]))
    assert found.to_pylist() == [1, None, None, None]


def batch(**columns):
    table = pa.table(columns)
    return Batch(np.arange(10, 10 + len(table)), table, untyped=True)


def test_normalise_gives_the_schema_and_row_numbers():
    rows = interactions.normalise(
        batch(user=["1", "2"], item=["7.0", "8"], time=["5", "6"], rating=["4", ""]), timed=True, rating_needed=False
    )
    assert rows.interactions.schema == schemas.SCHEMAS["interactions"]
    assert rows.interactions.to_pylist() == [
        {"user_id": "1", "item_id": "7", "timestamp": 5, "rating": 4.0, "row": 10},
        {"user_id": "2", "item_id": "8", "timestamp": 6, "rating": None, "row": 11},
    ]
    assert rows.reasons == []


def test_without_a_time_the_row_is_the_time():
    rows = interactions.normalise(batch(user=["1", "2"], item=["7", "8"]), timed=False, rating_needed=False)
    assert rows.interactions["timestamp"].to_pylist() == [10, 11]
    assert rows.interactions["rating"].to_pylist() == [None, None]


def test_bad_rows_are_told_with_what_was_given():
    columns = {
        "user": ["1", "", "1", "1", "1", "1"],
        "item": ["7", "7", None, "7", "7", "7"],
        "time": ["1", "1", "1", "soon", "1", "1"],
        "rating": ["1", "1", "1", "1", "good", ""],
    }
    rows = interactions.normalise(batch(**columns), timed=True, rating_needed=True)
    assert rows.interactions["row"].to_pylist() == [10]
    assert rows.bad_rows.tolist() == [11, 12, 13, 14, 15]
    assert [interactions.KINDS[kind] for kind in rows.bad_kinds] == ["user", "item", "time", "rating", "rating"]
    assert rows.reasons == [
        "has no user id",
        "has no item id",
        "has a time that is neither a number nor an ISO 8601 date ('soon')",
        "has a rating that is no number ('good')",
        "has no rating",
    ]
    assert len(rows.time_kinds) == 1
    assert interactions.normalise(batch(**columns), timed=True, rating_needed=False).bad_rows.tolist() == [
        11,
        12,
        13,
        14,
    ]


def test_rating_is_required_for_a_filter_or_when_named():
    def required(columns, min_rating):
        return {w.role: w.required for w in interactions.wanted(columns, min_rating)}

    assert required(Columns(), None) == {"user": True, "item": True, "time": True, "rating": False}
    assert required(Columns(), 4.0)["rating"]
    assert required(Columns(rating="stars"), None)["rating"]
    assert "time" not in required(Columns(time=None), None)


def read_items(tmp_path, text, name="items.csv", **columns):
    (tmp_path / name).write_text(text)
    format = TextFormat(separator="::", header=False) if name.endswith("dat") else None
    return items.read_items(locate(str(tmp_path / name), "items", text=format), Columns(**columns)).items


def test_items_are_sorted_and_equal_titles_stay_apart(tmp_path):
    table = read_items(tmp_path, "item_id,title,genres\n9,Cape Fear,Crime|Drama\n10,Cape Fear,\n")
    assert table.schema == schemas.SCHEMAS["items"]
    assert table.to_pylist() == [
        {"item_id": "10", "title": "Cape Fear", "genres": None, "popularity": 0},
        {"item_id": "9", "title": "Cape Fear", "genres": ["Crime", "Drama"], "popularity": 0},
    ]


def test_item_columns_by_name(tmp_path):
    table = read_items(tmp_path, "movieId,name\n1,A\n", item="movieId", title="name")
    assert table.select(["item_id", "title"]).to_pylist() == [{"item_id": "1", "title": "A"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "item_id,title\n1,A\n2,\n3,  \n",
            r"2 of 3 items .* row 2 of .*, which has no title \(item '2'\)",
        ),
        (
            "item_id,title\n1,A\n2,B\n1.0,C\n",
            r"1 of 3 .* row 3 of .*, which calls item '1' 'C', which was 'A'",
        ),
        ("item_id,title\n1,A\n,B\n", r"1 of 2 items .* row 2 of .*items.csv, which has no id"),
        ("item_id,title\n", "holds no items"),
        ("item_id,name\n1,A\n", r"no column 'title', it has item_id, name; .*--data.columns.title"),
    ],
)
def test_bad_items(tmp_path, text, said):
    with pytest.raises(BadInput, match=said):
        read_items(tmp_path, text)


def test_items_twice_or_without_a_title_are_dropped_counted_and_listed(tmp_path):
    (tmp_path / "a.csv").write_text("item_id,title,genres\n1,A,x\n2,,\n1,A,y\n3,C,z,z\nnull,E,\n1.00, A ,\n")
    (tmp_path / "b.jsonl").write_text('{"item_id": 1, "title": "B"}\n{"item_id": 4, "title": "D"}\n')
    files = locate(str(tmp_path), "items")
    found = items.read_items(files, Columns(), on_bad_item="drop", missing=["NULL"])
    assert found.items.select(["item_id", "title", "genres"]).to_pylist() == [
        {"item_id": "1", "title": "A", "genres": ["x"]},
        {"item_id": "4", "title": "D", "genres": None},
    ]
    assert found.repeated == 2
    assert found.counts == {"fields": 1, "json": 0, "item": 1, "title": 1, "twice": 1}
    assert found.dropped.schema == schemas.SCHEMAS["dropped"]
    assert [(row["file"].rsplit("/", 1)[1], row["row"], row["reason"]) for row in found.dropped.to_pylist()] == [
        ("a.csv", 2, "has no title (item '2')"),
        ("a.csv", 4, "has 4 fields where the header has 3 ('3,C,z,z')"),
        ("a.csv", 5, "has no id"),
        ("b.jsonl", 1, "calls item '1' 'B', which was 'A'"),
    ]
    with pytest.raises(BadInput, match=r"4 of 8 items .* row 2 of .*a\.csv.*--data\.on_bad_item drop"):
        items.read_items(files, Columns(), missing=["NULL"])


def test_the_same_item_twice_is_no_fault(tmp_path):
    assert read_items(tmp_path, "item_id,title\n1,A\n2,B\n1,A\n")["item_id"].to_pylist() == ["1", "2"]


def test_no_item_left(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n1,\n")
    with pytest.raises(BadInput, match=r"holds no items, since its 1 rows .* has no title"):
        items.read_items(locate(str(tmp_path / "items.csv"), "items"), Columns(), on_bad_item="drop")


def test_the_id_may_be_called_otherwise_in_the_items_file(tmp_path):
    table = read_items(tmp_path, '1::A (1990)::x|y\n2::"B" C::z\n', "items.dat", catalogue_item="1", title=2)
    assert table.select(["item_id", "title"]).to_pylist() == [
        {"item_id": "1", "title": "A (1990)"},
        {"item_id": "2", "title": '"B" C'},
    ]


def test_words_for_missing_ids():
    given = ["nan", "NaN", "NULL", "\\N", "nano", "", "None", "u1"]
    expected = [None, None, None, None, "nano", None, "None", "u1"]
    words = ("nan", "null", "\\N")
    assert parse_columns.ids(pa.array(given), untyped=True, missing=words).to_pylist() == expected
    assert parse_columns.ids(pa.array(given).dictionary_encode(), untyped=False, missing=words).to_pylist() == expected
    rows = interactions.normalise(
        batch(user=given, item=["1"] * 8), timed=False, rating_needed=False, missing=DataSettings().missing_ids
    )
    assert rows.interactions["user_id"].to_pylist() == ["nano", "u1"]
    assert rows.reasons[2] == "has no user id ('NULL')"


def test_ids_with_decimals_of_zero_are_whole():
    decimals = pa.array([decimal.Decimal("7.00"), decimal.Decimal("7.50")])
    assert parse_columns.ids(decimals, untyped=False).to_pylist() == ["7", "7.50"]
    given = pa.array(["7.00", "7.0", "7", "007.0", "1.2.0", "-3.000", "7.10"])
    assert parse_columns.ids(given, untyped=True).to_pylist() == ["7", "7", "7", "007", "1.2.0", "-3", "7.10"]


@pytest.mark.parametrize(("kind", "first"), [(pa.float32(), 2**24), (pa.float16(), 2**11)])
def test_times_of_few_bits_are_refused_where_they_lost_their_order(kind, first):
    times = pa.array(np.array([first - 1, first], kind.to_pandas_dtype()))
    rows = interactions.normalise(batch(user=["1", "2"], item=["1", "2"], time=times), timed=True, rating_needed=False)
    assert rows.interactions["timestamp"].to_pylist() == [first - 1]
    assert rows.reasons[0].startswith("has a time that cannot be told apart from others, since floats of few bits")


@pytest.mark.parametrize("given", ["0x10", "0X1F", "1_000"])
def test_only_decimal_numbers_are_times_and_ratings(given):
    assert parse_columns.times(pa.array(["5", given]))[0].to_pylist() == [5, None]
    assert parse_columns.numbers(pa.array(["5", given]))[1].tolist() == [False, True]


@pytest.mark.parametrize("word", [" UTC", "UTC", " utc", " GMT", "Z", "+00:00", ""])
@pytest.mark.parametrize("other", ["1970-01-01", "soon"])
def test_a_zone_may_be_a_word(word, other):
    found = parse_columns.times(pa.array([f"1970-01-01 00:00:01.5{word}", other]))[0].to_pylist()
    assert found == [1_500_000, 0 if other != "soon" else None]


def test_times_in_a_format_of_ones_own():
    written = "%m/%d/%Y %I:%M:%S %p"
    given = ["1/2/1970 12:00:01 AM", "01/02/1970 12:00:01 PM", "2/1/1970", "5", " 1/2/1970 12:00:01 AM "]
    found, kinds = parse_columns.times(pa.array(given), written)
    assert found.to_pylist() == [86_401_000_000, 129_601_000_000, None, None, 86_401_000_000]
    assert set(kinds.tolist()) == {parse_columns.DATE}
    assert parse_columns.times(pa.array([19700102]), "%Y%m%d")[0].to_pylist() == [86_400_000_000]
    assert parse_columns.times(pa.array(["1970-01-01 01:00 +0100"]), "%Y-%m-%d %H:%M %z")[0].to_pylist() == [0]
    assert parse_columns.times(pa.array([1.5]), "%Y")[0].to_pylist() == [None]
    rows = interactions.normalise(
        batch(user=["1"], item=["1"], time=["5"]), timed=True, rating_needed=False, time_format=written
    )
    assert rows.reasons == [f"has a time that does not follow data.time_format {written} ('5')"]


@pytest.mark.parametrize("text", ["%H:%M", "soon", "%Q %Y", "%d.%m.%y %", ""])
def test_time_formats_that_cannot_work(text):
    with pytest.raises(ValidationError, match="is no format of a date with a year"):
        DataSettings(time_format=text)


def test_time_kinds_follow_the_rows_that_stay():
    rows = interactions.normalise(
        batch(user=["", "1", "2"], item=["7", "7", "7"], time=["1", "2020-01-01", "3"]), timed=True, rating_needed=False
    )
    np.testing.assert_array_equal(rows.time_kinds, [parse_columns.DATE, parse_columns.INTEGER])
