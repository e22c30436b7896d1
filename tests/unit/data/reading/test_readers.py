import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosepo_ray.data.reading import interactions, readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.data.reading.readers import Wanted, read
from rosepo_ray.errors import BadInput

WANTED = [
    Wanted("user", "user_id", "--data.columns.user"),
    Wanted("item", "item_id", "--data.columns.item"),
    Wanted("rating", "rating", "--data.columns.rating", required=False),
]
EXPECTED = [("u1", "7", "4.5"), ("u2", "8", None)]  # an optional column may be absent from a batch


def rows(path, wanted=WANTED):
    [file] = locate(str(path), "interactions")
    return [
        tuple(None if row.get(w.role) is None else str(row[w.role]) for w in wanted)
        for batch in read(file, wanted)
        for row in batch.table.to_pylist()
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_text(tmp_path, ending, mark, zipped, suffix, delimiter):
    lines = [["item_id", "other", "user_id", "rating"], ["7", '"a, ""b""\tc"', "u1", "4.5"], ["8", "", "u2", ""]]
    content = (mark + ending.join(delimiter.join(line) for line in lines) + ending).encode()
    path = tmp_path / f"log.{suffix}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert rows(path) == EXPECTED


def test_quoted_commas_quotes_and_line_breaks_in_titles(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title\n1,"Godfather, The"\n2,"A ""quoted"" title"\n3,"two\nlines"\n4,שלום 🎬\n')
    wanted = [Wanted("item", "item_id", ""), Wanted("title", "title", "")]
    assert rows(path, wanted) == [
        ("1", "Godfather, The"),
        ("2", 'A "quoted" title'),
        ("3", "two\nlines"),
        ("4", "שלום 🎬"),
    ]


def test_recbole_headers_lose_their_types_and_quotes_are_plain_text(tmp_path):
    path = tmp_path / "a.item"
    path.write_text('item_id:token\tmovie_title:token_seq\n1\t"Godfather, The\n007\t\n')
    wanted = [Wanted("item", "item_id", ""), Wanted("title", "movie_title", "")]
    [file] = locate(str(path), "items")
    [batch] = read(file, wanted)
    assert batch.untyped
    assert batch.table.to_pylist() == [{"item": "1", "title": '"Godfather, The'}, {"item": "007", "title": None}]


@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl(tmp_path, zipped):
    lines = [{"user_id": "u1", "item_id": 7, "rating": 4.5, "tags": ["x"]}, {"item_id": 8, "user_id": "u2"}]
    content = ("\ufeff" + "\r\n".join(json.dumps(line) for line in lines)).encode()  # no end of line at the end
    path = tmp_path / f"log.jsonl{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert rows(path) == EXPECTED


def test_jsonl_ids_that_look_like_dates_stay_text(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "2020-01-01", "item_id": "2021-05-05 10:00:00"}\n')
    assert rows(path, WANTED[:2]) == [("2020-01-01", "2021-05-05 10:00:00")]


def test_jsonl_optional_field_of_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 40)
    path = tmp_path / "log.jsonl"
    records = [{"user_id": f"u{i}", "item_id": str(i), **({"rating": i} if i == 5 else {})} for i in range(8)]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    [file] = locate(str(path), "interactions")
    batches = list(read(file, WANTED))
    assert len(batches) > 3
    assert [row for b in batches for row in b.rows.tolist()] == list(range(8))
    found = [row for b in batches for row in b.table.to_pylist()]
    assert [row["user"] for row in found] == [f"u{i}" for i in range(8)]
    assert [row.get("rating") for row in found] == [None] * 5 + [5, None, None]


def test_parquet_types_and_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PARQUET_ROWS", 2)
    path = tmp_path / "log.parquet"
    table = pa.table({"user_id": pa.array(["a", "b", "a"]).dictionary_encode(), "item_id": [1, 2, 3], "x": [0, 0, 0]})
    pq.write_table(table, path)
    [file] = locate(str(path), "interactions")
    batches = list(read(file, WANTED))
    assert [b.rows.tolist() for b in batches] == [[0, 1], [2]]
    assert [row for b in batches for row in b.table.to_pylist()] == [
        {"user": "a", "item": 1},
        {"user": "b", "item": 2},
        {"user": "a", "item": 3},
    ]
    assert not batches[0].untyped


def test_csv_streams_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n" + "".join(f"u{i},i{i}\n" for i in range(50)))
    [file] = locate(str(path), "interactions")
    batches = list(read(file, WANTED))
    assert len(batches) > 3
    assert [row["user"] for b in batches for row in b.table.to_pylist()] == [f"u{i}" for i in range(50)]
    assert [row for b in batches for row in b.rows.tolist()] == list(range(50))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", b"user_id,movie\n1,2\n"),
        ("log.tsv", b"user_id\tmovie\n1\t2\n"),
        ("log.jsonl", b'{"user_id": 1, "movie": 2}\n'),
        ("log.inter", b"user_id:token\tmovie:token\n1\t2\n"),
    ],
)
def test_missing_column_names_file_columns_and_option(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        BadInput, match=rf"{name} has no column 'item_id', it has user_id, movie; .*--data.columns.item"
    ):
        rows(tmp_path / name)


def test_missing_column_in_parquet(tmp_path):
    pq.write_table(pa.table({"user_id": [1], "movie": [2]}), tmp_path / "log.parquet")
    with pytest.raises(BadInput, match=r"no column 'item_id', it has user_id, movie"):
        rows(tmp_path / "log.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.csv", "user_id,item_id\nJosé,1\n".encode("latin-1"), "not UTF-8"),
        ("log.csv", "user_id,itém\n1,1\n".encode("latin-1"), "not UTF-8"),
        ("log.csv", "user_id,item_id\nJosé\n".encode("latin-1"), "not UTF-8"),
        ("log.jsonl", '{"user_id": "José", "item_id": 1}\n'.encode("latin-1"), "not UTF-8"),
        ("log.jsonl", '{"user_id": "José", "item_id": 1}\n[]\n'.encode("latin-1"), "not UTF-8"),
        ("log.csv", "user_id,item_id\n1,1\n".encode("utf-16"), "not UTF-8"),
        (
            "log.csv",
            b"user_id,item_id\n1," + b"2" * (2 * readers.BLOCK_BYTES),
            "a line longer than 8 MiB",
        ),
        ("log.csv", b"user_id,item_id,item_id\n1,2,3\n", "more than one column 'item_id'"),
        ("log.csv", b"user_id,item_id, item_id \n1,2,3\n", "more than one column 'item_id'"),
        ("log.inter", b"user_id:token\titem_id:token\tuser_id:float\n1\t2\t3\n", "more than one column 'user_id'"),
        ("log.parquet", b"PAR1 broken", "log.parquet"),
        ("log.csv.gz", b"\x1f\x8b broken", "log.csv.gz"),
        ("log.csv.gz", gzip.compress(b"user_id,item_id\n" + b"1,2\n" * 100_000)[:300], "log.csv.gz"),
    ],
)
def test_damaged_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        rows(tmp_path / name)


@pytest.mark.parametrize(
    "header", [b"user_id,item_id\n", b"user_id,item_id", b'user_id,"item_id"\r\n\r\n', b"\n\n", b"\n"]
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_without_rows_give_nothing(tmp_path, mark, header):
    (tmp_path / "log.csv").write_bytes(mark + header)
    assert rows(tmp_path / "log.csv") == []


LINES = ["user_id,item_id,rating,note", "u0,i0,1,x", 'v,2,3,"oops', *(f"u{n},i{n},2,y" for n in range(9))]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("block", [70, 1 << 20])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ",")])
def test_a_quote_that_is_never_closed_costs_one_row(tmp_path, monkeypatch, ending, last, block, suffix, delimiter):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    path = tmp_path / f"log.{suffix}"

    def write(lines):
        content = (ending.join(lines) + ending * last).replace(",", delimiter).encode()
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)

    def left_out():
        [file] = locate(str(path), "interactions")
        return [(left.row, left.kind, left.reason[:35]) for batch in read(file, WANTED) for left in batch.broken]

    others = [(f"u{n}", f"i{n}", "2") for n in range(9)]
    said = [(1, "fields", "opens a quote that is never closed,")]
    write(LINES)
    assert rows(path) == [("u0", "i0", "1"), *others]
    assert left_out() == said
    write(LINES[:3])  # in the last row
    assert rows(path) == [("u0", "i0", "1")]
    assert left_out() == said
    write([line.replace('"oops', '"oops"') for line in LINES])
    assert rows(path) == [("u0", "i0", "1"), ("v", "2", "3"), *others]
    assert left_out() == []


def test_a_quote_in_recbole_files_and_within_a_field_opens_nothing(tmp_path):
    (tmp_path / "log.inter").write_text('user_id:token\titem_id:token\n"u\t1\nv\t2\n')
    (tmp_path / "log.csv").write_text('user_id,item_id\n5"u,1\nv,2\n')
    assert rows(tmp_path / "log.inter", WANTED[:2]) == [('"u', "1"), ("v", "2")]
    assert rows(tmp_path / "log.csv", WANTED[:2]) == [('5"u', "1"), ("v", "2")]


def test_one_column_twice_in_parquet(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["user_id", "item_id", "user_id"])
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(BadInput, match="more than one column 'user_id'"):
        rows(tmp_path / "log.parquet")


def test_ids_in_parquet_that_are_neither_text_nor_numbers(tmp_path):
    pq.write_table(pa.table({"user_id": [[1]], "item_id": [2]}), tmp_path / "log.parquet")
    said = r"column 'user_id' of .*log\.parquet has the type list<.*>, .* give text or numbers.*--data\.columns\.user"
    with pytest.raises(BadInput, match=said):
        rows(tmp_path / "log.parquet")


def test_bytes_in_parquet_that_are_no_text(tmp_path):
    pq.write_table(pa.table({"user_id": [b"Jos\xe9"], "item_id": [2]}), tmp_path / "log.parquet")
    [file] = locate(str(tmp_path / "log.parquet"), "interactions")
    [batch] = read(file, WANTED)
    said = r"log\.parquet .* store that column as UTF-8 text"
    with pytest.raises(BadInput, match=said) as caught, readers.explained(file):
        interactions.normalise(batch, timed=False, rating_needed=False)
    assert "encoding" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_folders_name_columns_that_the_file_lacks(tmp_path, suffix):
    folder = tmp_path / "log" / "item_id=9" / "user_id=zoe" / "rating=3"
    folder.mkdir(parents=True)
    path = folder / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"item_id": ["7", "8"]}), path)
    else:
        path.write_text(
            "item_id\n7\n8\n" if suffix == "csv" else '{"item_id": "7"}\n{"item_id": "8", "user_id": null}\n'
        )
    assert rows(tmp_path / "log") == [("zoe", "7", "3"), ("zoe", "8", "3")]  # the file's own item_id counts
    if suffix != "jsonl":  # whose lines may each lack a field
        with pytest.raises(BadInput, match="no column 'user_id'"):
            rows(folder)


def test_upper_case_suffixes(tmp_path):
    content = gzip.compress(b"user_id,item_id,rating\nu1,7,4.5\nu2,8,\n")
    (tmp_path / "LOG.CSV.GZ").write_bytes(content)
    assert rows(tmp_path / "LOG.CSV.GZ") == EXPECTED
