"""Separators, quotes, escapes and headers of delimited text."""

import csv
import io

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rosepo_ray.config.data import TextFormat
from rosepo_ray.data.reading import readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.data.reading.readers import Wanted
from rosepo_ray.errors import BadInput

ITEM = [Wanted("item", "item_id", "--data.columns.item"), Wanted("title", "title", "--data.columns.title")]


def read(path, wanted=ITEM, role="items", **text):
    """(values by row number, reasons by row number)"""
    [file] = locate(str(path), role, text=TextFormat(**text))
    good, left = {}, {}
    for batch in readers.read(file, wanted):
        values = [tuple(row[w.role] for w in wanted) for row in batch.table.to_pylist()]
        good |= dict(zip(batch.rows.tolist(), values, strict=True))
        left |= {broken.row: broken.reason for broken in batch.broken}
    return good, left


def write(path, *lines):
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


UNQUOTED = {
    # no row may vanish behind the first quote, whatever the second one looks like
    "never closed": (['3\t"C', "4\tD"], {0}),
    "closed by the next title": (['3\t"C', "4\tD", '5\t"E'], {0, 2}),
    "closed at the end of a later row": (['3\t"C', "4\tD", '5\tE 5"'], {0}),
    "closed within the title": (['3\t"C" and more', "4\tD"], {0}),
    "not doubled": (['3\t"C "more" c"', "4\tD"], {0}),
}


@pytest.mark.parametrize("block", [30, 1 << 20])
@pytest.mark.parametrize("case", UNQUOTED)
def test_quotes_that_are_text_are_refused_or_kept(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    lines, bad = UNQUOTED[case]
    path = write(tmp_path / "items.tsv", "item_id\ttitle", *lines)
    titles = {row: tuple(line.split("\t")) for row, line in enumerate(lines)}
    good, left = read(path)
    assert set(left) == bad
    assert good == {row: value for row, value in titles.items() if row not in bad}
    assert "--data.items_format.quote null keeps them" in left[0]
    assert read(path, quote=None) == (titles, {})


def test_escaped_quotes_are_refused_or_read(tmp_path):
    path = write(
        tmp_path / "items.csv", "item_id,title", r'1,"Say \"Hi\" again"', "2,Plain", r'"3","5\""', '4,"D, ""d"""'
    )
    good, left = read(path)
    assert set(good) == {1, 3}
    assert set(left) == {0, 2}
    assert read(path, escape="\\") == (
        {0: ("1", 'Say "Hi" again'), 1: ("2", "Plain"), 2: ("3", '5"'), 3: ("4", 'D, "d"')},
        {},
    )


def test_mysql_text_with_escapes_and_its_word_for_missing(tmp_path):
    path = write(tmp_path / "items.tsv", "item_id\ttitle", "1\ta\\\tb", "2\t\\N", "\\N\tc\\\\N", "3\tx\\\ny")
    assert read(path, quote=None, escape="\\")[0] == {
        0: ("1", "a\tb"),
        1: ("2", None),
        2: (None, "c\\N"),
        3: ("3", "x\ny"),
    }


def test_blanks_behind_a_quote_and_another_sign(tmp_path):
    path = write(tmp_path / "items.csv", "item_id;title", "'1' ;'it''s; so'", '2;"b"')
    assert read(path, separator=";", quote="'") == ({0: ("1 ", "it's; so"), 1: ("2", '"b"')}, {})


@pytest.mark.parametrize("block", [17, 1 << 20])
@pytest.mark.parametrize("separator", ["::", "§", "|", "\\t", " ", "||"])
def test_separators(tmp_path, monkeypatch, separator, block):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    sign = "\t" if separator == "\\t" else separator
    lines = [
        sign.join(row) for row in (("item_id", "title"), ("1", '"Great"'), ("2", "a:b"), ("3", "x", "y"), ("4", "d"))
    ]
    good, left = read(write(tmp_path / "items.dat", *lines), separator=separator)
    assert good == {0: ("1", '"Great"'), 1: ("2", "a:b"), 3: ("4", "d")}
    assert left == {2: f"has 3 fields where the header has 2 ({lines[3]!r})"}


def test_a_separator_of_several_signs_inside_quotes(tmp_path):
    path = write(tmp_path / "items.csv", "item_id::title", '1::"A::B"', "2::C:D")
    assert read(path, separator="::", quote='"')[0] == {0: ("1", "A::B"), 1: ("2", "C:D")}


def test_columns_are_numbered_without_a_header(tmp_path):
    wanted = [Wanted("user", "1", ""), Wanted("item", "3", "")]
    lines = ["u1::x::7", "u2::y", "u3::z::8"]
    for block_lines in (lines, ["u0", *lines]):  # what most rows have counts, not the first
        good, left = read(write(tmp_path / "log.dat", *block_lines), wanted, separator="::", header=False)
        shift = len(block_lines) - 3
        assert good == {shift: ("u1", "7"), 2 + shift: ("u3", "8")}
        assert left[1 + shift] == "has 2 fields where others have 3 ('u2::y')"
    assert read(write(tmp_path / "one.dat", "u1::x::7"), wanted, separator="::", header=False)[0] == {0: ("u1", "7")}
    with pytest.raises(BadInput, match=r"no column 'item_id', it has 1, 2, 3; .*--data\.columns\.item"):
        read(tmp_path / "log.dat", separator="::", header=False)


def test_a_wrong_separator_and_a_missing_header_are_named(tmp_path):
    path = write(tmp_path / "log.csv", "user_id;item_id", "1;2")
    said = r"it has user_id;item_id; .*--data\.format\.separator, or say --data\.format\.header false"
    with pytest.raises(BadInput, match=said):
        read(path, role="interactions")
    with pytest.raises(BadInput, match=r"items\.dat does not say what .*--data\.items_format\.separator"):
        read(write(tmp_path / "items.dat", "item_id::title"))
    with pytest.raises(BadInput, match=r"the header of .*items\.csv opens a quote"):
        read(write(tmp_path / "items.csv", 'item_id,"title', "1,a"))
    with pytest.raises(BadInput, match="control sign 1f"):
        read(write(tmp_path / "items.dat", "item_id::title", "1::a\x1fb"), separator="::")


@pytest.mark.parametrize(
    "text",
    [{"separator": ""}, {"separator": "a\n"}, {"quote": "''"}, {"quote": "é"}, {"escape": ","} | {"separator": ","}],
)
def test_signs_that_cannot_work(text):
    with pytest.raises(ValidationError):
        TextFormat(**text)


CELL = st.text(st.sampled_from(list("ab\",;\t '\\é\n\r\u2028")), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=12),
    sign=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    escape=st.sampled_from([None, "\\"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([60, 200, 1 << 20]),
)
@example(
    cells=[("", ";"), ("", ";\\"), ("", ";;;\\\r\n")],
    sign=",",
    quoting=csv.QUOTE_ALL,
    escape="\\",
    ending="\n",
    block=60,
)
def test_what_csv_writes_is_read_back(tmp_path, cells, sign, quoting, escape, ending, block):
    """Python's writer is the judge. In a TSV no title holds tabs and line breaks at once."""
    if sign == "\t":
        cells = [tuple(c.replace("\n", " ").replace("\r", " ") if "\t" in c else c for c in row) for row in cells]
    if any("\r" in cell for row in cells for cell in row):  # which Python leaves unquoted where lines end with \n
        quoting = csv.QUOTE_ALL
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, delimiter=sign, quoting=quoting, lineterminator=ending, escapechar=escape, doublequote=escape is None
    )
    writer.writerows([("n", "item_id", "title"), *((str(n), *row) for n, row in enumerate(cells))])
    path = tmp_path / "items.csv"
    path.write_bytes(out.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", block)
        good, left = read(path, separator=sign, escape=escape)
    assert left == {}
    assert good == {row: tuple(cell or None for cell in value) for row, value in enumerate(cells)}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    titles=st.lists(st.text(st.sampled_from(list('ab" ')), min_size=1, max_size=5), min_size=1, max_size=12),
    block=st.sampled_from([40, 1 << 20]),
)
def test_no_row_of_a_tsv_vanishes_whatever_the_quotes(tmp_path, titles, block):
    path = write(tmp_path / "items.tsv", "item_id\ttitle", *(f"{n}\t{title}" for n, title in enumerate(titles)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", block)
        good, left = read(path)
        assert sorted([*good, *left]) == list(range(len(titles)))
        assert all(item == str(row) for row, (item, _) in good.items())
        assert all(good[n][1] == title for n, title in enumerate(titles) if n in good and not title.startswith('"'))
        assert {row: title for row, (_, title) in read(path, quote=None)[0].items()} == dict(enumerate(titles))


def test_a_long_title_in_the_first_rows(tmp_path):
    long = "x" * 200_000
    wanted = [Wanted("item", "1", ""), Wanted("title", "2", "")]
    path = write(tmp_path / "items.csv", f'1,"{long}"', "2,b")
    assert read(path, wanted, header=False)[0] == {0: ("1", long), 1: ("2", "b")}
