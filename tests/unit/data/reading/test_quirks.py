"""Quirks of real files at the level of readers, ids and items; `tests/integration/test_any_log.py` has the rest."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosepo_ray.config.data import Columns
from rosepo_ray.data.reading import interactions, items, parse_columns, readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.errors import BadInput
from rosepo_ray.run.sources import build

TITLES = {
    "1": 'Godfather, The "uncut"',
    "2": "two\nlines",
    "3": "שלום עולם",
    "4": "🎬 Film 🍿",
    "5": "NULL",
    "6": "NaN",
    "7": "long " * 2_000 + "end",
    "8": "Cape Fear",
    "9": "Cape Fear",
    "10": "2001-01-01",
}


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def write_items(folder, suffix, ending="\n", mark="", encoding="utf-8"):
    path = folder / f"items.{suffix}"
    kind = suffix.removesuffix(".gz")
    if kind == "parquet":
        pq.write_table(pa.table({"item_id": [int(i) for i in TITLES], "title": list(TITLES.values())}), path)
        return path
    if kind == "jsonl":
        lines = [json.dumps({"item_id": int(i), "title": t}, ensure_ascii=False) for i, t in TITLES.items()]
    else:
        sign = "," if kind == "csv" else "\t"
        lines = [f"item_id{sign}title", *(f"{i}{sign}{quoted(t)}" for i, t in TITLES.items())]
    content = (mark + ending.join(lines) + ending).encode(encoding)
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "jsonl.gz", "parquet"])
def test_titles_of_all_kinds_survive_every_format(tmp_path, suffix, mark, ending):
    table = items.read_items(locate(str(write_items(tmp_path, suffix, ending, mark)), "items"), Columns()).items
    assert dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True)) == TITLES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl.gz"])
def test_other_encodings(tmp_path, suffix, encoding):
    path = write_items(tmp_path, suffix, encoding=encoding)
    table = items.read_items(locate(str(path), "items", encoding), Columns()).items
    assert dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True)) == TITLES


def test_latin_1_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    text = "user_id,item_id\n" + "".join(f"José{i},Café{i}\n" for i in range(50))
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    [file] = locate(str(tmp_path / "log.csv"), "interactions", "iso8859-1")
    wanted = [readers.Wanted("user", "user_id", ""), readers.Wanted("item", "item_id", "")]
    batches = list(readers.read(file, wanted))
    assert len(batches) > 3
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    assert rows == [{"user": f"José{i}", "item": f"Café{i}"} for i in range(50)]


def test_text_that_is_not_in_the_encoding_named(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id\n\x81,1\n")
    [file] = locate(str(tmp_path / "log.csv"), "interactions", "cp1252")
    with pytest.raises(BadInput, match=r"log\.csv is not CP1252 text .*--data\.encoding"):
        list(readers.read(file, [readers.Wanted("user", "user_id", ""), readers.Wanted("item", "item_id", "")]))


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", ""])
def test_an_unknown_encoding(name):
    with pytest.raises(BadInput, match=rf"data\.encoding: '{name}' is no text encoding"):
        build({"data": {"encoding": name}})


def test_two_spellings_of_an_encoding_are_one_setting():
    assert build({"data": {"encoding": "latin1"}}) == build({"data": {"encoding": "ISO-8859-1"}})
    assert build({"data": {"encoding": "UTF8"}}) == build({})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 20]),
        pa.array([1, 20], pa.uint8()),
        pa.array([1.0, 20.0]),
        pa.array(["1", "20"]),
        pa.array([" 1", "20\t"]),
        pa.array(["1", "20"]).dictionary_encode(),
        pa.array(["1", "20"], pa.large_string()),
    ],
)
def test_the_same_ids_in_different_types(column):
    assert parse_columns.ids(column, untyped=False).to_pylist() == ["1", "20"]


def test_ids_that_look_like_missing_values_are_ids_where_no_word_says_otherwise(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,rating\nNULL,NA,5\nnan,None,nan\n")
    [file] = locate(str(tmp_path / "log.csv"), "interactions")
    columns = Columns(time=None)
    [batch] = readers.read(file, interactions.wanted(columns, None))
    rows = interactions.normalise(batch, timed=False, rating_needed=False)
    assert rows.interactions.select(["user_id", "item_id", "rating"]).to_pylist() == [
        {"user_id": "NULL", "item_id": "NA", "rating": 5.0},
        {"user_id": "nan", "item_id": "None", "rating": None},
    ]


def test_titles_lose_blanks_around_them(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n 1 ,  Heat (1995) \n2,\u00a0x\u3000\n")
    table = items.read_items(locate(str(tmp_path / "items.csv"), "items"), Columns()).items
    assert table.select(["item_id", "title"]).to_pylist() == [
        {"item_id": "1", "title": "Heat (1995)"},
        {"item_id": "2", "title": "x"},
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": {"item": "user_id"}}, r"data\.columns\.user and data\.columns\.item both name .*'user_id'"),
        ({"columns": {"time": "rating"}}, r"both name the column 'rating'; .*or null for the one that the log lacks"),
        (
            {"min_rating": 4, "columns": {"rating": None}},
            r"data\.min_rating 4 needs ratings, .*--data\.min_rating null",
        ),
        ({"interactions": "x.csv"}, r"data\.interactions is given beside data\.sample"),
        ({"sample": "none", "items": "x.csv"}, r"must both name files"),
        ({"on_bad_row": "skip"}, r"on_bad_row"),
    ],
)
def test_contradictory_settings(settings, said):
    with pytest.raises(BadInput, match=said):
        build({"data": settings})
