"""JSON arrays, JSON lines called .json, and what only looks like JSON."""

import gzip
import json

import pytest

from rosepo_ray.data.reading import readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.data.reading.readers import Wanted
from rosepo_ray.errors import BadInput

WANTED = [Wanted("user", "user_id", ""), Wanted("item", "item_id", "")]
RECORDS = [{"user_id": f"u{n}", "item_id": n, "note": f'[{n}], "é🎬'} for n in range(40)]


def read(path):
    [file] = locate(str(path), "interactions")
    batches = list(readers.read(file, WANTED))
    good = {
        row: (str(value["user"]), str(value["item"]))
        for batch in batches
        for row, value in zip(batch.rows.tolist(), batch.table.to_pylist(), strict=True)
    }
    return good, {left.row: left.reason for batch in batches for left in batch.broken}


@pytest.mark.parametrize("block", [120, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["log.json", "log.jsonl", "log.json.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff \n"])
def test_an_array_is_read_like_lines(tmp_path, monkeypatch, block, indent, name, mark):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    content = (mark + json.dumps(RECORDS, indent=indent, ensure_ascii=False)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path / name) == ({n: (f"u{n}", str(n)) for n in range(40)}, {})


def test_numbers_of_an_array_stay_as_written(tmp_path):
    (tmp_path / "log.json").write_text('[{"user_id": 18446744073709551617, "item_id": 9007199254740993}]')
    assert read(tmp_path / "log.json")[0] == {0: ("18446744073709551617", "9007199254740993")}


def test_lines_called_json(tmp_path):
    (tmp_path / "log.json").write_text("\n".join(map(json.dumps, RECORDS)))
    assert len(read(tmp_path / "log.json")[0]) == 40


def test_elements_that_are_no_objects_are_bad_rows(tmp_path):
    (tmp_path / "log.json").write_text('[{"user_id": 1, "item_id": 2}, 5, null, {"user_id": 3, "item_id": 4}]')
    good, left = read(tmp_path / "log.json")
    assert good == {0: ("1", "2"), 3: ("3", "4")}
    assert left == {1: "is no JSON object ('5')", 2: "is no JSON object ('null')"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"user_id": 1, "item_id": 2}, {"user_id": ', "breaks off or is broken at element 2"),
        ('[{"user_id": 1, "item_id": 2}', "breaks off or is broken at element 2"),
        ('[{"user_id": 1, "item_id": 2}] {"user_id": 3}', "goes on behind its JSON array"),
        ('[{"user_id": 1, "item_id": 2}, oops, ' + " " * 300, "element 2 of the array in .* is no JSON"),
    ],
)
def test_a_broken_array_ends_the_run(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 100)
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        read(tmp_path / "log.json")


def test_an_empty_array_has_no_rows(tmp_path):
    (tmp_path / "log.json").write_text("[ ]\n")
    assert read(tmp_path / "log.json") == ({}, {})


def test_python_dictionaries_are_named(tmp_path):
    (tmp_path / "log.jsonl").write_text("{'user_id': 'u0', 'item_id': 0}\n {'user_id': 'u1', 'item_id': 1}\n")
    left = read(tmp_path / "log.jsonl")[1]
    assert left[1].startswith("is a Python dictionary, not JSON (\"{'user_id': 'u1', ")
    assert left[1].endswith("write it with json.dumps")
