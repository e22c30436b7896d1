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
    assert format_of("b.dat") == format_of("b.txt.gz") == format_of("u.data") == "text"
    assert format_of("b.json") == "jsonl"
    assert format_of("b.xml") is None
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


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.txt"])
def test_gzip_is_known_by_its_first_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"hello\n"))
    with locate(str(tmp_path / name), "interactions")[0].open_stream() as stream:
        assert stream.read() == b"hello\n"
    (tmp_path / name).write_bytes(b"hello\n")
    with locate(str(tmp_path / name), "interactions")[0].open_stream() as stream:
        assert stream.read() == b"hello\n"


@pytest.mark.parametrize(
    ("start", "said"),
    [(b"PAR1", r"Parquet; give it the suffix \.parquet"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "Zstandard")],
)
def test_what_is_no_text_is_named(tmp_path, start, said):
    (tmp_path / "a.csv").write_bytes(start + b"\x00" * 20)
    with pytest.raises(BadInput, match=rf"a\.csv is by its content .*{said}"):
        locate(str(tmp_path / "a.csv"), "interactions")[0].open_stream()


def test_notes_in_a_folder_are_no_log(tmp_path):
    (tmp_path / "README.txt").write_text("x\n")
    (tmp_path / "a.dat").write_text("x\n")
    assert names(locate(str(tmp_path), "interactions")) == ["a.dat"]
    assert names(locate(f"{tmp_path}/*.txt", "interactions")) == ["README.txt"]


def test_folders_below_the_uri_name_columns_and_nothing_else_does(tmp_path):
    path = (
        tmp_path / "user_id=5" / "log" / "dt=2020-01-01" / "k=a%20b" / "x=__HIVE_DEFAULT_PARTITION__" / "item_id=7.csv"
    )
    path.parent.mkdir(parents=True)
    path.write_text("x\n")
    below = (("dt", "2020-01-01"), ("k", "a b"), ("x", None))
    for uri in (f"{tmp_path}/user_id=5/log", f"{tmp_path}/user_id=5/log/", f"{tmp_path}/user_id=5/log/dt=*"):
        assert [file.folders for file in locate(uri, "interactions")] == [below]
    assert locate(f"{tmp_path}/user_id=5/log/dt=2020-01-01", "interactions")[0].folders == below[1:]
    assert locate(str(path), "interactions")[0].folders == ()


def test_bad_inputs_name_the_path_and_the_option(tmp_path):
    with pytest.raises(BadInput, match=r"no file at .*/gone.csv.*--data.interactions"):
        locate(str(tmp_path / "gone.csv"), "interactions")
    with pytest.raises(BadInput, match=r"no file at .*\*.csv.*--data.items"):
        locate(str(tmp_path / "*.csv"), "items")
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(BadInput, match=r"no file of a known format.*parquet"):
        locate(str(tmp_path), "interactions")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(BadInput, match="every file there is empty"):
        locate(str(tmp_path), "interactions")
    with pytest.raises(BadInput, match="ftp"):
        locate("ftp://host/a.csv", "interactions")
