"""Rows that cannot be taken apart: left out by the readers, with the numbers of all rows as in the file."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.config.data import Columns
from rosepo_ray.data.reading import interactions, items, json_lines, readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.data.reading.parse_columns import ids
from rosepo_ray.data.reading.readers import Wanted
from rosepo_ray.errors import BadInput

WANTED = [Wanted("user", "user_id", ""), Wanted("item", "item_id", "")]


def read(path):
    """{row number: (user, item)} of the rows given out, and {row number: (kind, reason)} of those left out."""
    [file] = locate(str(path), "interactions")
    good, broken = {}, {}
    for batch in readers.read(file, WANTED):
        assert len(batch.rows) == len(batch.table)
        for row, values in zip(batch.rows.tolist(), batch.table.to_pylist(), strict=True):
            assert row not in good
            good[row] = tuple(None if values[role] is None else str(values[role]) for role in ("user", "item"))
        for left in batch.broken:
            assert left.row not in broken
            broken[left.row] = (left.kind, left.reason)
    return good, broken


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("suffix", "sign"), [("csv", ","), ("tsv", "\t"), ("inter", "\t"), ("csv.gz", ",")])
def test_wrong_number_of_fields(tmp_path, suffix, sign, mark, ending):
    lines = ["user_id,item_id,x", "u0,i0,0", "u1,i1", "", "u2,i2,2,2", "u3,i3,3", "u4"]
    content = (mark + ending.join(lines) + ending).replace(",", sign).encode()
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    good, broken = read(path)
    assert good == {0: ("u0", "i0"), 3: ("u3", "i3")}
    assert {row: kind for row, (kind, _) in broken.items()} == {1: "fields", 2: "fields", 4: "fields"}
    assert broken[1][1] == f"has 2 fields where the header has 3 ({f'u1{sign}i1'!r})"


def test_a_line_break_inside_quotes_ends_no_row(tmp_path):
    (tmp_path / "log.csv").write_text('user_id,item_id,title\nu0,i0,"a\n\nb"\nshort\nu2,i2,"c"\n')
    good, broken = read(tmp_path / "log.csv")
    assert good == {0: ("u0", "i0"), 2: ("u2", "i2")}
    assert list(broken) == [1]


@pytest.mark.parametrize("block", [40, 100, 1 << 20])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@settings(max_examples=20)
@given(broken=st.sets(st.integers(0, 59)))
def test_numbers_whatever_the_blocks(tmp_path_factory, suffix, block, broken):
    folder = tmp_path_factory.mktemp("numbers")
    if suffix == "csv":
        lines = ["user_id,item_id", *("x" if i in broken else f"u{i},i{i}" for i in range(60))]
    else:
        lines = ["{" if i in broken else json.dumps({"user_id": f"u{i}", "item_id": f"i{i}"}) for i in range(60)]
    (folder / f"log.{suffix}").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", block)
        good, found = read(folder / f"log.{suffix}")
    assert set(found) == broken
    assert good == {i: (f"u{i}", f"i{i}") for i in range(60) if i not in broken}


def test_a_file_of_nothing_but_broken_rows(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id\nx\ny\n")
    (tmp_path / "b.jsonl").write_text('{"user_id": \nnonsense\n')
    assert read(tmp_path / "a.csv")[0] == read(tmp_path / "b.jsonl")[0] == {}
    assert len(read(tmp_path / "a.csv")[1]) == len(read(tmp_path / "b.jsonl")[1]) == 2


def test_broken_json_lines(tmp_path):
    lines = [
        '{"user_id": 1, "item_id": 7.0}',
        '{"user_id": 1, "item_id": 8',
        "",
        "[1, 2]",
        '{"user_id": {"id": 1}, "item_id": 9}',
        '{"user_id": "José", "item_id": "x", "other": [1]}',
        "[" * 100_000,
        '{"item_id": 3}',
    ]
    (tmp_path / "log.jsonl").write_text("\r\n".join(lines))
    good, broken = read(tmp_path / "log.jsonl")
    assert good == {0: ("1", "7"), 4: ("José", "x"), 6: (None, "3")}
    assert {row: reason[:30] for row, (_, reason) in broken.items()} == {
        1: "is not JSON: Expecting ',' del",
        2: "is no JSON object ('[1, 2]')",
        3: "has a 'user_id' that is neithe",
        5: "is not JSON: nested too deeply",
    }
    assert {kind for kind, _ in broken.values()} == {"json"}


def test_json_fields_of_two_types():
    lines = [
        {"user_id": 1, "item_id": "a", "time": 5, "rating": 4},
        {"user_id": "1", "item_id": 2, "time": "2020-01-01", "rating": "good"},
        {"user_id": 2**70, "item_id": float("nan"), "time": None, "rating": 2.5},
    ]
    table, wrong, rows = json_lines.parse(
        "\n".join(map(json.dumps, lines)).encode(), ["user_id", "item_id", "time", "rating"], ["user_id", "item_id"]
    )
    assert (wrong, rows) == ([], 3)
    assert table["user_id"].to_pylist() == ["1", "1", str(2**70)]
    assert table["item_id"].to_pylist() == ["a", "2", None]
    assert table["time"].to_pylist() == ["5", "2020-01-01", None]
    assert table["rating"].to_pylist() == ["4", "good", "2.5"]


@pytest.mark.parametrize("beside", [3, 2**63, 1.5, "x", None])
def test_json_ids_beyond_what_floats_hold_stay_apart(beside):
    given = [2**63 + 1, 2**63 + 2, 2**64 - 1, beside]
    lines = [{"user_id": user, "item_id": 1} for user in given]
    table, wrong, _ = json_lines.parse(
        "\n".join(map(json.dumps, lines)).encode(), ["user_id", "item_id"], ["user_id", "item_id"]
    )
    assert wrong == []
    found = ids(table["user_id"], untyped=False).to_pylist()
    assert found == [*map(str, given[:3]), None if beside is None else str(beside)]


def test_json_ids_written_as_large_floats_are_refused(tmp_path):
    lines = ['{"user_id": 1e300, "item_id": 1}', '{"user_id": 1e3, "item_id": 9007199254740993}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    good, broken = read(tmp_path / "log.jsonl")
    assert good == {1: ("1000", "9007199254740993")}
    assert broken[0][1].startswith("has a 'user_id' too large for a number with decimals or an exponent")


def test_half_a_surrogate_pair_is_one_bad_row(tmp_path):
    lines = [
        '{"user_id": "\\ud800x", "item_id": 1}',
        '{"user_id": "\\ud83c\\udfac", "item_id": 2, "note": "\\ud800"}',
        '{"user_id": "u", "item_id": 3}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    good, broken = read(tmp_path / "log.jsonl")
    assert good == {1: ("🎬", "2"), 2: ("u", "3")}
    assert [reason[:40] for _, reason in broken.values()] == ["has a 'user_id' with half of a surrogate"]


def test_numbers_beside_text_that_looks_like_a_date_in_json():
    lines = [{"item_id": 1, "title": "1984-01-01"}, {"item_id": 2, "title": "2001-01-01"}]
    table, _, _ = json_lines.parse(
        "\n".join(map(json.dumps, lines)).encode(), ["item_id", "title"], ["item_id", "title"]
    )
    assert table.to_pylist() == lines


def test_broken_and_unusable_rows_come_in_the_order_of_the_file(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,i,now\nshort\n,i,1\nu,i,2\nu,,3,4\nu,,3\n")
    [file] = locate(str(tmp_path / "log.csv"), "interactions")
    columns = Columns(rating=None)
    found = [
        interactions.normalise(batch, timed=True, rating_needed=False)
        for batch in readers.read(file, interactions.wanted(columns, None))
    ]
    assert np.concatenate([rows.bad_rows for rows in found]).tolist() == [0, 1, 2, 4, 5]
    assert [interactions.KINDS[kind] for rows in found for kind in rows.bad_kinds] == [
        "time",
        "fields",
        "user",
        "fields",
        "item",
    ]
    assert [row for rows in found for row in rows.interactions["row"].to_pylist()] == [3]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "items.csv",
            "item_id,title\n1,A\n2,B, The\n",
            "data row 2 of .*items.csv, which has 3 fields where the header has 2",
        ),
        ("items.jsonl", '{"item_id": 1, "title": "A"}\nA\n', "data row 2 of .*items.jsonl, which is not JSON"),
    ],
)
def test_an_item_is_never_left_out(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said):
        items.read_items(locate(str(tmp_path / name), "items"), Columns())
