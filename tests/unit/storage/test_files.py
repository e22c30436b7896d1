"""Files by path and URI: the same on a local disk, under names full of signs, and where nothing renames or appends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from pyarrow import fs

from rosepo_ray import storage
from rosepo_ray.errors import BadInput

ODD = "a%41 b?#[x]*::c/history=12"


@pytest.fixture(params=["local", "memory://bucket/run", "memory://bucket/run?colour=red/blue"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / ODD) if request.param == "local" else request.param
    fsspec.filesystem("memory").store.clear()


def test_what_is_written_is_found_read_and_removed(root: str):
    one, two = storage.join(root, "one"), storage.join(root, "deep", "er", "two.json")
    assert storage.list_files(root) == []
    assert not storage.exists(one)
    storage.write_bytes(one, b"before")
    storage.write_bytes(one, b"1")
    storage.write_json(two, {"ä": None})
    storage.write_bytes(storage.join(root, ".tmp-x"), b"left by a kill")
    assert storage.list_files(root) == ["deep/er/two.json", "one"]
    assert storage.exists(storage.join(root, "deep"))
    assert storage.read_bytes(one) == b"1"
    assert storage.read_json(two) == {"ä": None}
    assert storage.sha256(one) == hashlib.sha256(b"1").hexdigest()
    storage.remove_file(one)
    storage.remove_file(one)
    storage.remove_folder(storage.join(root, "none"))
    assert storage.list_files(root) == ["deep/er/two.json"]
    storage.remove_folder(root)
    assert storage.list_files(root) == []


def test_folders_go_up_and_come_back(root: str, tmp_path: Path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_bytes(b"w")
    (tmp_path / "model" / "deep" / "er").write_bytes(b"d")
    storage.upload_folder(tmp_path / "model", storage.join(root, "model"))
    with storage.local_copy(storage.join(root, "model")) as local:
        found = {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    assert found == {"weights": b"w", "deep/er": b"d"}
    with storage.local_copy(storage.join(root, "model", "weights")) as local:
        assert (local.name, local.read_bytes()) == ("weights", b"w")


def test_arrow_reads_the_same_files(root: str):
    uri = storage.join(root, "part.bin")
    storage.write_bytes(uri, b"0123")
    system, path = storage.filesystem(uri)
    with system.open_input_file(path) as stream:
        assert (stream.size(), stream.read()) == (4, b"0123")


def test_a_local_write_replaces_the_whole_file_at_once(tmp_path: Path):
    storage.write_bytes(str(tmp_path / "x"), b"old")
    with (tmp_path / "x").open("rb") as reader:  # who reads the old file goes on reading it
        storage.write_bytes(str(tmp_path / "x"), b"new and longer")
        assert reader.read() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_folders_that_are_links_are_followed(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "part").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pairs").symlink_to(tmp_path / "elsewhere")
    assert storage.list_files(str(tmp_path / "run")) == ["pairs/part"]


def test_names_stand_in_front_of_a_uris_options():
    run = "s3://b/run/?endpoint_override=http://127.0.0.1:9&region=eu"
    assert storage.join(run, "sft", "ab") == "s3://b/run/sft/ab?endpoint_override=http://127.0.0.1:9&region=eu"
    assert storage.join(run) == "s3://b/run?endpoint_override=http://127.0.0.1:9&region=eu"
    assert storage.name(storage.join(run, "sft")) == "sft"
    system, path = storage.filesystem(storage.join(run, "sft"))
    assert (type(system), path) == (fs.S3FileSystem, "b/run/sft")
    assert storage.join("/a?b/c/", "d") == "/a?b/c/d"
    assert storage.name("/a/b?c") == "b?c"


def test_relative_paths_and_home_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.filesystem("runs/x")[1] == f"{tmp_path}/runs/x"
    assert storage.filesystem("~/x")[1] == "/home/me/x"


@pytest.mark.parametrize("uri", ["nope://bucket/x", "s3://bucket/a b"])
def test_what_nothing_serves_is_refused(uri: str):
    with pytest.raises(BadInput, match=uri.partition(":")[0]):
        storage.filesystem(uri)
