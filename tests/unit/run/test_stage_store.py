"""The store of stages: shared by runs, computed once, and knowing what is still named by one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import fsspec
import pytest

from rosepo_ray import storage
from rosepo_ray.config.run import RunSettings
from rosepo_ray.errors import Stopped
from rosepo_ray.process import signals
from rosepo_ray.run import commands, pipeline, stage_store
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import done


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_store, "_POLL_SECONDS", 0.05)


def folders(settings: Settings, run_dir: Path) -> dict[str, str]:
    return {step.stage.name: step.folder for step in pipeline.plan(settings, str(run_dir))}


def test_the_store_lies_beside_the_run_directory_or_where_it_is_set():
    assert stage_store.root(RunSettings(), "/runs/first") == "/runs/stages"
    assert stage_store.root(RunSettings(), "s3://bucket/runs/first?region=x") == "s3://bucket/runs/stages?region=x"
    assert stage_store.root(RunSettings(stages="/elsewhere/"), "/runs/first") == "/elsewhere"
    assert stage_store.root(RunSettings(stages="s3://bucket/stages/"), "/runs/first") == "s3://bucket/stages"


def test_with_another_beta_everything_before_alignment_is_shared(tmp_path: Path):
    one = folders(build({}), tmp_path / "one")
    other = folders(build({"align": {"objective": {"beta": 0.3}}}), tmp_path / "other")
    assert {name for name in one if one[name] == other[name]} == {"data", "sft", "oracle", "reject", "calibrate"}
    assert one["sft"].startswith(f"{tmp_path}/stages/sft/")
    elsewhere = build({"run": {"stages": str(tmp_path / "else")}})
    assert folders(elsewhere, tmp_path / "one")["sft"].startswith(f"{tmp_path}/else/sft/")


def finish(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "model", "weights"), b"w" * 1000)
    done.write(folder, {"steps": 3}, 2.5)


def test_a_finished_stage_of_this_run_stays_when_the_package_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_dir = tmp_path / "run"
    before = folders(build({}), run_dir)
    stage_store.name_folders(stage_store.root(RunSettings(), str(run_dir)), str(run_dir), before)
    finish(before["data"])
    monkeypatch.setattr(pipeline, "_code", lambda: "another version")
    again = folders(build({}), run_dir)
    assert again["data"] == before["data"]
    assert again["sft"] != before["sft"]  # unfinished: made by today's code
    assert folders(build({}), tmp_path / "fresh")["data"] != before["data"]


def test_what_another_run_makes_is_waited_for_and_taken(tmp_path: Path, quick: None):
    folder, order = str(tmp_path / "stages" / "sft" / "abc"), []
    claimed = threading.Event()

    def first() -> None:
        with stage_store.claimed(folder, "one"):
            claimed.set()
            time.sleep(0.3)
            finish(folder)
            order.append("made")

    def second() -> None:
        claimed.wait()
        with stage_store.claimed(folder, "two"):
            order.append("taken" if done.read(folder) else "made again")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["made", "taken"]


def test_who_waits_can_be_stopped(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch):
    folder = str(tmp_path / "stages" / "sft" / "abc")
    with stage_store.claimed(folder, "one"):
        monkeypatch.setattr(signals, "_noted", [15])
        with pytest.raises(Stopped), stage_store.claimed(folder, "two"):
            pass


@pytest.fixture
def remote() -> str:
    yield "memory://bucket/stages/sft/abc"
    memory = fsspec.filesystem("memory")
    memory.rm("/bucket", recursive=True) if memory.exists("/bucket") else None


def test_on_an_object_store_a_lease_holds_until_it_expires(remote: str, quick: None, monkeypatch: pytest.MonkeyPatch):
    lease = "memory://bucket/stages/sft/abc.lease"
    with stage_store.claimed(remote, "one"):
        assert json.loads(storage.read_bytes(lease))["owner"] == "one"
        assert not stage_store._Lease(lease, "two").taken()
        assert stage_store._Lease(lease, "one").taken()  # the same run again, after a kill
    assert not storage.exists(lease)
    storage.write_json(lease, {"owner": "killed", "expires": time.time() - 1})
    with stage_store.claimed(remote, "two"):
        assert json.loads(storage.read_bytes(lease))["owner"] == "two"


def test_a_lease_is_renewed_while_it_is_held(remote: str, quick: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage_store, "_LEASE_SECONDS", 0.4)
    with stage_store.claimed(remote, "one"):
        time.sleep(0.8)
        assert not stage_store._Lease("memory://bucket/stages/sft/abc.lease", "two").taken()


def test_the_list_says_who_uses_what_and_prune_removes_what_no_run_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = str(tmp_path / "stages")
    shared, alone, lost, half = (f"{store}/{name}" for name in ("data/aa", "sft/bb", "sft/cc", "oracle/dd"))
    for folder in (shared, alone, lost):
        finish(folder)
    storage.write_bytes(f"{half}/part", b"1234")
    stage_store.name_folders(store, str(tmp_path / "one"), {"data": shared, "oracle": half})
    stage_store.name_folders(store, str(tmp_path / "two"), {"data": shared, "sft": alone})
    found = {one.folder: one for one in stage_store.listed(store)}
    assert found.keys() == {shared, alone, lost, half}
    assert found[shared].runs == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert found[lost].runs == []
    assert (found[half].bytes, found[half].seconds, found[shared].seconds) == (4, None, 2.5)
    assert found[shared].bytes > 1000
    (tmp_path / "two" / "stages.json").unlink()  # the run is gone
    assert commands.main(["stages", store]) == 0
    told = capsys.readouterr().out
    assert "no run" in told
    assert "unfinished" in told
    assert commands.main(["stages", store, "--prune"]) == 0
    assert "removed 2 folder(s)" in capsys.readouterr().out
    assert {one.folder for one in stage_store.listed(store)} == {shared, half}
    assert stage_store.listed(str(tmp_path / "nothing")) == []


def test_a_store_named_by_a_relative_path_is_still_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = str(tmp_path / "runs" / "stages")
    finish(f"{store}/sft/aa")
    stage_store.name_folders(store, str(tmp_path / "runs" / "one"), {"sft": f"{store}/sft/aa"})
    monkeypatch.chdir(tmp_path)
    assert [one.runs for one in stage_store.listed("runs/stages")] == [[str(tmp_path / "runs" / "one")]]
    assert stage_store.prune("runs/stages") == []
    assert done.read(f"{store}/sft/aa") is not None
