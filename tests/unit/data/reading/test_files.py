import gzip
from pathlib import Path

import pytest

from rosepo_ray.data.reading.files import format_of, locate
from rosepo_ray.errors import BadInput


def names(files):
    return [Path(file.path).name for file in files]


def test_formats_by_suffix():
    assert format_of("a/b.csv") == "csv"
    assert format_of("a/b.CSV.gz") == "csv"
    assert format_of("b.v2.tsv") == "tsv"
    assert format_of("b.jsonl.gz") == "jsonl"
    assert format_of("b.parquet") == "parquet"
    assert format_of("ml.inter") == "recbole"
    assert format_of("b.parquet.gz") is None
    assert format_of("b.txt") is None
    assert format_of("b") is None


def test_folder_is_sorted_and_leaves_out_empty_hidden_and_unknown_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.csv", "a.csv", "deep/c.tsv", "_SUCCESS", ".b.csv.crc", "_log/x.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    (tmp_path / "aa.csv").write_text("")
    assert names(locate(str(tmp_path), "interactions")) == ["a.csv", "b.csv", "c.tsv"]
    assert names(locate(f"file://{tmp_path}", "interactions")) == ["a.csv", "b.csv", "c.tsv"]


def test_glob(tmp_path):
    for name in ("2023-01.csv", "2023-02.csv", "2024-01.csv", "items.csv"):
        (tmp_path / name).write_text("x\n")
    assert names(locate(f"{tmp_path}/2023-*.csv", "interactions")) == ["2023-01.csv", "2023-02.csv"]
    assert names(locate(f"{tmp_path}/202?-01.csv", "interactions")) == ["2023-01.csv", "2024-01.csv"]
    assert names(locate(f"file://{tmp_path}/2023-*.csv", "interactions")) == ["2023-01.csv", "2023-02.csv"]


def test_glob_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("x\n")
    monkeypatch.chdir(tmp_path)
    assert names(locate("*.csv", "interactions")) == ["a.csv"]
    assert locate("a.csv", "interactions")[0].path == str(tmp_path / "a.csv")


def test_a_file_name_may_hold_a_glob_sign(tmp_path):
    (tmp_path / "log[1].csv").write_text("x\n")
    assert names(locate(str(tmp_path / "log[1].csv"), "interactions")) == ["log[1].csv"]


def test_a_glob_that_matches_folders_means_their_files(tmp_path):
    for name in ("day1.csv", "day2.csv/part-0.csv", "day2.csv/_SUCCESS", "day2.csv/.x.csv", "_tmp.csv/y.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    assert names(locate(f"{tmp_path}/*.csv", "interactions")) == ["day1.csv", "part-0.csv"]
    assert names(locate(f"file://{tmp_path}/day*", "interactions")) == ["day1.csv", "part-0.csv"]
    assert names(locate(f"{tmp_path}/**", "interactions")).count("part-0.csv") == 1


@pytest.mark.parametrize("case", [str, str.upper])
def test_recbole_folder_serves_both_roles(tmp_path, case):
    for name in map(case, ("ml.inter", "ml.item", "ml.user")):
        (tmp_path / name).write_text("x\n")
    assert names(locate(str(tmp_path), "interactions")) == [case("ml.inter")]
    assert names(locate(str(tmp_path), "items")) == [case("ml.item")]


def test_gzip_is_opened_transparently(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"hello\n"))
    with locate(str(tmp_path / "a.csv.gz"), "interactions")[0].open_stream() as stream:
        assert stream.read() == b"hello\n"


def test_bad_inputs_name_the_path_and_the_option(tmp_path):
    with pytest.raises(BadInput, match=r"no file at .*/gone.csv.*--data.interactions"):
        locate(str(tmp_path / "gone.csv"), "interactions")
    with pytest.raises(BadInput, match=r"no file at .*\*.csv.*--data.items"):
        locate(str(tmp_path / "*.csv"), "items")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(BadInput, match=r"no file of a known format.*parquet"):
        locate(str(tmp_path), "interactions")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(BadInput, match="every file there is empty"):
        locate(str(tmp_path), "interactions")
    with pytest.raises(BadInput, match="ftp"):
        locate("ftp://host/a.csv", "interactions")
