"""The run directory, the plan of stages, markers, tables and the closing table, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from rosepo_ray import storage
from rosepo_ray.errors import BadInput, RosepoError, original
from rosepo_ray.process import memory
from rosepo_ray.run import directory, pipeline, summary
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import done, tables


def fingerprints(settings: Settings, run_dir: str = "/nowhere") -> dict[str, str]:
    return {step.stage.name: step.folder.rpartition("/")[2] for step in pipeline.plan(settings, run_dir)}


def test_a_setting_changes_the_stages_that_depend_on_it_and_no_other():
    before = fingerprints(build({}))
    other = fingerprints(build({"align": {"objective": {"beta": 0.2}}}))
    changed = {name for name, value in other.items() if before[name] != value}
    assert changed == {"align", "sft_longer", "evaluate"}
    changed = {name for name, value in fingerprints(build({"sft": {"steps": 7}})).items() if before[name] != value}
    assert changed == {"sft", "reject", "calibrate", "align", "sft_longer", "evaluate"}
    assert fingerprints(build({"cluster": {"workers": 4}})) == before
    assert fingerprints(build({"seed": 2}))["data"] == before["data"]  # training seeds share the protocol
    assert fingerprints(build({}), "/elsewhere") == before


def test_stages_that_the_settings_leave_out_are_not_planned():
    names = list(fingerprints(build({"oracle": {"type": "constant"}, "sft_longer": {"enabled": False}})))
    assert names == ["data", "sft", "reject", "align", "evaluate"]


def test_a_single_stage_needs_the_stages_before_it(tmp_path: Path):
    with pytest.raises(BadInput, match=r"needs data and sft in .*; run jobs/stage\.py data first"):
        pipeline.run(build({}), str(tmp_path), only="reject")
    with pytest.raises(BadInput, match="no stage sft_longer"):
        pipeline.run(build({"sft_longer": {"enabled": False}}), str(tmp_path), only="sft_longer")


def test_a_folder_without_a_marker_is_not_done(tmp_path: Path):
    folder = pipeline.plan(build({}), str(tmp_path))[0].folder
    storage.write_json(storage.join(folder, "half.json"), {})
    assert pipeline.plan(build({}), str(tmp_path))[0].done is None
    done.write(folder, {"rows": 3}, 1.5)
    marker = pipeline.plan(build({}), str(tmp_path))[0].done
    assert marker is not None
    assert marker["info"] == {"rows": 3}
    assert list(marker["files"]) == ["half.json"]


def test_other_settings_are_refused_and_named_but_the_cluster_may_change(tmp_path: Path):
    directory.record(build({}), str(tmp_path))
    directory.refuse_other_settings(build({"cluster": {"workers": 3}}), str(tmp_path))
    with pytest.raises(BadInput, match=r"align\.objective\.beta is 0\.1 there and 0\.2 here"):
        directory.refuse_other_settings(build({"align": {"objective": {"beta": 0.2}}}), str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: [1, 2", "is damaged (ParserError: "),
        (b"seed: \xff\xfe", "is damaged (ReaderError: "),
        (b"", "is damaged (it holds NoneType where sections belong)"),
        (b"- seed", "is damaged (it holds list where sections belong)"),
    ],
)
def test_damaged_settings_are_one_sentence(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        directory.refuse_other_settings(build({}), str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/settings.yaml {words}")
    assert str(caught.value).endswith("put the file back, or give another --run.dir")
    assert "\n" not in str(caught.value)


def test_no_credential_reaches_the_saved_settings(tmp_path: Path):
    directory.record(build({"mlflow": {"tracking_uri": "https://me:hunter2@host/x"}}), str(tmp_path))
    text = (tmp_path / "settings.yaml").read_text()
    assert "hunter2" not in text
    assert yaml.safe_load(text)["mlflow"]["tracking_uri"] == "https://***@host/x"


def test_a_directory_of_a_live_run_is_refused(tmp_path: Path):
    with (
        directory.lock(str(tmp_path)),
        pytest.raises(BadInput, match="another live run"),
        directory.lock(str(tmp_path)),
    ):
        pass
    with directory.lock(str(tmp_path)):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"), directory.lock(str(tmp_path / "file")):
        pass


def test_a_relative_run_directory_inside_a_ray_job_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(BadInput, match="absolute"):
        directory.resolve(build({"run": {"dir": "runs/x"}}), "quickstart")
    assert directory.resolve(build({"run": {"dir": "s3://bucket/x/"}}), "quickstart") == "s3://bucket/x"


def test_tables_are_checked_on_write_and_filtered_by_split(tmp_path: Path):
    row = {"example_id": "u:1", "user_id": "u", "history": ["a"], "target": "b", "candidates": ["b", "c"]}
    for number, split in enumerate(("train", "test", "train")):
        tables.write_part(str(tmp_path), "examples", number, tables.from_rows("examples", [{**row, "split": split}]))
    assert tables.read(str(tmp_path), "examples").num_rows == 3
    assert tables.read(str(tmp_path), "examples", ["example_id", "split"], split="train").num_rows == 2
    assert tables.read(str(tmp_path / "none"), "examples").num_rows == 0
    with pytest.raises(RosepoError, match="columns"):
        tables.write_part(str(tmp_path), "examples", 9, pa.table({"example_id": ["u:1"]}))


def test_leftovers_of_killed_writes_are_passed_over(tmp_path: Path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / ".tmp-x").write_text('{"step"')
    assert storage.list_files(str(tmp_path)) == []


def test_the_error_inside_what_ray_wrapped_is_found():
    class Wrapper(Exception):
        pass

    told = BadInput("given 1, wanted 2, change it")
    wrapped = Wrapper("noise")
    wrapped.cause = RuntimeError("inner")
    wrapped.cause.__cause__ = told
    assert original(wrapped) is told
    group = Wrapper("group")
    group.worker_failures = {0: wrapped}
    assert original(group) is told
    assert original(ValueError("x")) is None


def test_memory_counts_this_process_and_its_descendants():
    hold = "import time; x = bytearray(200 << 20); time.sleep(30)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        time.sleep(1.5)
        with memory.PeakMemory() as watch:
            time.sleep(0.3)
        assert watch.peak > 200 << 20  # what the child's child holds
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_the_table_of_one_user_has_no_intervals():
    def entry(value: float | None) -> dict:
        return {"value": value, "low": None, "high": None, "rows": 4}

    metrics = {name: entry(0.5) for name in ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "full_hr@10")}
    content = {
        "models": {"popular": {**metrics, "catalogue_ratio": entry(None), "long_tail@1": entry(0.25)}},
        "notes": {"own_metrics": ["long_tail@1"]},
        "differences": {"aligned-sft": {"hr@1": entry(0.01)}},
        "target_arp": 2.0,
        "split": "test",
        "counts": {"examples": {"test": 9}},
    }
    lines = summary.table(content).splitlines()
    assert lines[1].split() == [
        "most",
        "popular",
        "0.5000",
        "0.5000",
        "0.5000",
        "0.5000",
        "0.5",
        "0.5000",
        "0.5000",
        "-",
        "0.2500",
    ]
    assert lines[0].endswith("  LONG_TAIL@1")
    assert lines[2].startswith("4 of 9 test rows;")
    assert lines[3] == "aligned-sft: HR@1 +0.0100"


@pytest.mark.parametrize(("high", "said"), [(-0.011, True), (-0.01, False), (None, False)])
def test_the_table_says_where_alignment_unlearned_to_write(high: float | None, said: bool):
    def entry(value: float, high: float | None = 0.0) -> dict:
        return {"value": value, "low": high, "high": high, "rows": 4}

    names = ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "full_hr@10")
    models = {
        model: {name: entry(0.5) for name in names} | {"catalogue_ratio": entry(share)}
        for model, share in (("sft", 0.852), ("aligned", 0.37))
    }
    content = {
        "models": models,
        "notes": {"own_metrics": []},
        "differences": {"aligned-sft": {"hr@1": entry(0.01), "catalogue_ratio": entry(-0.482, high)}},
        "target_arp": 2.0,
        "split": "test",
        "counts": {"examples": {"test": 4}},
    }
    last = summary.table(content).splitlines()[-1]
    assert last.startswith("warning: 37.0% of the texts that the aligned policy writes name an item, 85.2%") is said


def judged(hr: dict[str, float], differences: dict[str, tuple[float | None, float | None]]) -> list[str]:
    """The last lines of the closing table of models with these HR@1 and differences of `aligned` (low, high)."""

    def entry(value: float, low: float | None = None, high: float | None = None) -> dict:
        return {"value": value, "low": low, "high": high, "rows": 4}

    names = ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "full_hr@10", "catalogue_ratio")
    content = {
        "models": {model: {name: entry(value) for name in names} for model, value in hr.items()},
        "notes": {"own_metrics": []},
        "differences": {
            f"aligned-{name}": {"hr@1": entry(0.0, *ends), "catalogue_ratio": entry(0.0)}
            for name, ends in differences.items()
        },
        "target_arp": 2.0,
        "split": "test",
        "counts": {"examples": {"test": 4}},
    }
    return summary.table(content).splitlines()[2 + len(hr) + len(differences) :]


def test_the_table_says_what_the_intervals_allow():
    models = {"popular": 0.3, "oracle": 0.6, "sft": 0.5, "sft_longer": 0.5, "aligned": 0.55}
    ends = {"popular": (0.1, 0.3), "oracle": (-0.2, -0.1), "sft": (0.01, 0.1), "sft_longer": (-0.01, 0.1)}
    assert judged(models, ends) == [
        "by HR@1, aligned is above SFT, most popular; below oracle; not told apart from SFT longer (95 % intervals "
        "over users)"
    ]
    assert judged(models, {"sft": (0.0, 0.1)}) == [
        "by HR@1, aligned is not told apart from SFT (95 % intervals over users)"
    ]
    assert judged(models, {"sft": (None, None)}) == []


def test_the_table_warns_of_a_policy_below_most_popular():
    def warned(sft: float, aligned: float) -> str:
        return "\n".join(judged({"popular": 0.3, "sft": sft, "aligned": aligned}, {"sft": (None, None)}))

    assert warned(0.2, 0.3).startswith("warning: SFT ranks below most popular (HR@1 0.3000): the policy has not")
    assert warned(0.29, 0.2).startswith("warning: SFT and aligned rank below most popular")
    assert warned(0.3, 0.31) == ""
