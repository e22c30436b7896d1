"""The whole pipeline on a small log: stages, tables, the summary, what a second start does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.replay import Replay
from rosepo_ray.registry.tracking import Tracker
from rosepo_ray.run import pipeline, summary
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.stages.register import Record, register
from rosepo_ray.storage import done, metrics, tables
from tests.synthetic import tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return build(tiny(tmp_path_factory.mktemp("log"), rejection={"k": 2}, evaluation={"beams": 2}))


@pytest.fixture(scope="module")
def finished(settings: Settings, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    run_dir = str(tmp_path_factory.mktemp("run") / "a%41 b?#" / "history=12")  # in a path no sign means anything
    return {"run_dir": run_dir, "stages": pipeline.run(settings, run_dir)}


def test_every_stage_ran_and_left_its_marker(finished: dict[str, Any]):
    assert list(finished["stages"]) == [stage.name for stage in pipeline.STAGES]
    for result in finished["stages"].values():
        marker = done.read(result.folder)
        assert marker is not None
        for name, entry in marker["files"].items():
            assert storage.sha256(storage.join(result.folder, name)) == entry["sha256"]


def test_a_second_start_recomputes_nothing(settings: Settings, finished: dict[str, Any]):
    again = pipeline.run(settings, finished["run_dir"])
    assert all(result.skipped for result in again.values())
    assert {n: r.info for n, r in again.items()} == {n: r.info for n, r in finished["stages"].items()}


def test_pairs_hold_the_policys_own_mistake_and_its_log_probabilities(finished: dict[str, Any]):
    """The stored reference is recomputed response by response with the saved SFT policy."""
    from rosepo_ray.catalogue.requests import Request
    from rosepo_ray.policy import store
    from rosepo_ray.policy.scoring import score

    stages = finished["stages"]
    items = tables.read(stages["data"].folder, "items")
    title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    policy = store.load(Path(stages["sft"].folder, "model"))
    pairs = tables.read(stages["reject"].folder, "pairs").to_pylist()
    assert sum(row["split"] == "train" for row in pairs) == 64
    for row in pairs[:40]:
        history = [title_of[item] for item in row["history"]]
        logp = {c: float(score(policy, [Request(history, [title_of[c]])], 1, 4096)[0][0]) for c in row["candidates"]}
        assert row["ref_chosen_logp"] == pytest.approx(logp[row["chosen"]], abs=1e-3)
        wrong = sorted((c for c in row["candidates"] if c != row["chosen"]), key=lambda c: -logp[c])
        assert [logp[c] for c in row["rejected"]] == pytest.approx([logp[c] for c in wrong[:2]], abs=1e-3)
        assert row["ref_rejected_logps"] == pytest.approx([logp[c] for c in row["rejected"]], abs=1e-3)


def test_smoothing_is_what_the_calibrated_oracle_says(settings: Settings, finished: dict[str, Any]):
    from rosepo_ray.oracle import judging, store

    stages = finished["stages"]
    oracle = store.load(storage.join(stages["calibrate"].folder, "oracle"))
    pairs = tables.read(stages["reject"].folder, "pairs")
    pairs = pairs.filter(pc.equal(pairs["split"], "train"))
    columns = [pairs[name].to_pylist() for name in ("user_id", "history", "chosen", "rejected")]
    answer = judging.judge(oracle, judging.as_request(*columns))
    expected = dict(zip(pairs["example_id"].to_pylist(), answer["disagreement"], strict=True))
    smoothing = tables.read(stages["align"].folder, "smoothing").to_pylist()
    assert sorted(row["example_id"] for row in smoothing) == sorted(expected)  # each pair was asked exactly once
    for row in smoothing:
        assert row["epsilon"] == pytest.approx(np.minimum(expected[row["example_id"]], 0.5), abs=1e-5)
        assert row["oracle_version"] == oracle.version


def test_alignment_starts_at_the_reference_and_logs_what_it_should(finished: dict[str, Any]):
    rows = metrics.read(finished["stages"]["align"].folder)
    assert [row["step"] for row in rows] == list(range(1, 5))  # 64 pairs, 16 a step
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)  # softplus(0), whatever epsilon is
    logged = {"loss", "margin", "pair_accuracy", "chosen_logp", "rejected_logp", "epsilon", "grad_norm"}
    assert logged | {"tokens_per_second", "wait_share", "lr"} <= rows[0].keys()


def test_a_run_is_replayed_from_its_smoothing_table(settings: Settings, finished: dict[str, Any], tmp_path: Path):
    """No oracle is hosted, and the metrics are the same."""
    stages = finished["stages"]
    replay = _replayed(settings, stages["align"].folder)
    step = next(p for p in pipeline.plan(settings, finished["run_dir"]) if p.stage.name == "align")
    step.stage.start(replay, step.inputs, str(tmp_path / "align"))
    timing = ("time", "tokens_per_second", "wait_share", "step_seconds")
    for row, before in zip(metrics.read(str(tmp_path / "align")), metrics.read(stages["align"].folder), strict=True):
        for name in row.keys() - set(timing):
            assert row[name] == pytest.approx(before[name], rel=1e-6, abs=1e-6), name


def _replayed(settings: Settings, folder: str) -> Settings:
    """No oracle is asked: every epsilon comes from the table of an earlier alignment."""
    return settings.model_copy(update={"oracle": Replay(folder=folder)})


def _step(settings: Settings, finished: dict[str, Any], stage: str) -> pipeline.Planned:
    return next(p for p in pipeline.plan(settings, finished["run_dir"]) if p.stage.name == stage)


def _changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    )


def test_two_workers_with_accumulation_train_as_one_does(settings: Settings, finished: dict[str, Any], tmp_path: Path):
    step = _step(settings, finished, "sft")
    two = _changed(settings, cluster={"workers": 2, "threads": 1}, sft={"micro_batch": 2})  # 4 forward passes a step
    step.stage.start(two, step.inputs, str(tmp_path / "sft"))
    one = metrics.read(finished["stages"]["sft"].folder)
    found = metrics.read(str(tmp_path / "sft"))
    assert len(found) == len(one) >= 20
    for row, before in zip(found[:20], one[:20], strict=True):
        assert row["loss"] == pytest.approx(before["loss"], abs=1e-4)
        assert row["count"] == before["count"]


def test_two_workers_with_accumulation_align_as_one_does(settings: Settings, finished: dict[str, Any], tmp_path: Path):
    """Two passes over the pairs: the second asks for nothing, whichever rank asked before."""
    step = _step(settings, finished, "align")
    found = {}
    for name, workers, micro_batch in (("one", 1, 16), ("two", 2, 2)):
        layout = _changed(
            settings,
            cluster={"workers": workers, "threads": 1},
            align={"micro_batch": micro_batch, "epochs": 2},
        )
        if workers == 1:
            layout = _replayed(layout, finished["stages"]["align"].folder)
        out = str(tmp_path / name)
        info = step.stage.start(layout, step.inputs, out)
        found[name] = metrics.read(out), tables.read(out, "smoothing"), info["mean_epsilon"]
    (one, smoothing, mean), (two, asked, mean_asked) = found["one"], found["two"]
    assert [row["step"] for row in two] == list(range(1, 9))
    for row, before in zip(two, one, strict=True):
        for name in ("loss", "margin", "epsilon", "chosen_logp", "count"):
            assert row[name] == pytest.approx(before[name], abs=1e-4), name
    assert asked["example_id"].equals(smoothing["example_id"])
    assert mean_asked == pytest.approx(mean, abs=1e-6)


def test_rejected_samples_are_the_same_with_three_actors_and_other_blocks(
    settings: Settings, finished: dict[str, Any], tmp_path: Path
):
    from ray.data import DataContext

    step = _step(settings, finished, "reject")
    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 512
    try:
        out = str(tmp_path / "reject")
        step.stage.start(_changed(settings, cluster={"actors": 3}), step.inputs, out)
    finally:
        context.target_max_block_size = before
    assert _hashes(out) == _hashes(step.folder)


def test_rejection_goes_on_with_the_units_that_are_missing(
    settings: Settings, finished: dict[str, Any], tmp_path: Path
):
    step = _step(settings, finished, "reject")
    out = tmp_path / "reject"
    shutil.copytree(Path(step.folder, "pairs"), out / "pairs")
    removed = sorted((out / "pairs").iterdir())[1]
    removed.unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "pairs").iterdir()}
    step.stage.start(settings, step.inputs, str(out))
    assert _hashes(str(out)) == _hashes(step.folder)
    assert {name: (out / "pairs" / name).stat().st_mtime_ns for name in kept} == kept


def _hashes(folder: str) -> dict[str, str]:
    names = [name for name in storage.list_files(folder) if name.endswith(".parquet")]
    assert names
    return {name: storage.sha256(storage.join(folder, name)) for name in names}


def test_pairs_of_another_model_are_refused(settings: Settings, finished: dict[str, Any], tmp_path: Path):
    step = next(p for p in pipeline.plan(settings, finished["run_dir"]) if p.stage.name == "align")
    other = {**step.inputs, "sft": finished["stages"]["sft_longer"].folder}
    once = _replayed(_changed(settings, cluster={"max_failures": 0}), finished["stages"]["align"].folder)
    with pytest.raises(RosepoError, match="differ from the stored reference"):
        step.stage.start(once, other, str(tmp_path / "align"))


def test_under_bf16_the_reference_is_compared_in_full_precision(
    settings: Settings, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As on a GPU: rounding alone, which the bound does not allow for, refuses nothing."""
    import torch

    from rosepo_ray.programs import align
    from rosepo_ray.stages.align import program as aligned
    from rosepo_ray.training.world import World

    class Bf16(World):
        exact = False

    monkeypatch.setitem(align._REFERENCE_TOLERANCE, "cpu", 1e-5)  # so small a model rounds little
    folders = {name: result.folder for name, result in finished["stages"].items()}
    known = {row["example_id"]: row for row in tables.read(folders["reject"], "pairs", split="train").to_pylist()}

    def rows(example_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        return ({**known[name], "epsilon": [0.1] * len(known[name]["rejected"])} for name in example_ids)

    names = (folders["data"], folders["sft"], folders["reject"])
    program = aligned(*names, rows, settings.align, settings.scoring, settings.seed, Bf16())
    differences = []
    for micro in next(program.batches(0)):
        with program.world.autocast():
            outputs = program.module(micro.inputs)
        pairs = micro.pairs(outputs.detach())
        differences.append(float((pairs.logps_BR - pairs.ref_logps_BR).abs().max()))
        program.loss(outputs, micro)
        with torch.no_grad():
            program.policy.model.get_input_embeddings().weight.add_(0.01)
        with pytest.raises(RosepoError, match="differ from the stored reference"):
            program.loss(outputs, micro)
        with torch.no_grad():
            program.policy.model.get_input_embeddings().weight.sub_(0.01)
    assert max(differences) > 1e-4


def test_nothing_that_the_user_took_before_is_recommended(finished: dict[str, Any]):
    data, evaluation = (finished["stages"][name].folder for name in ("data", "evaluate"))
    whole = {row["user_id"]: row["whole"] for row in tables.read(data, "taken").to_pylist()}
    seen = {}
    for row in tables.read(data, "examples", split="test").to_pylist():
        own = whole[row["user_id"]]
        seen[row["example_id"]] = set(own[: own.index(row["target"])])
    for model in ("popular", "oracle", "sft", "sft_longer", "aligned"):
        rows = tables.read(storage.join(evaluation, "predictions", model), "predictions").to_pylist()
        assert len(rows) == len(seen)
        for row in rows:
            assert len(row["top"]) == 10
            assert not {*row["top"], row["written_item"]} & seen[row["example_id"]]


def test_the_summary_holds_what_a_program_reads(
    settings: Settings, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    stages = finished["stages"]
    folders = {name: result.folder for name, result in stages.items()}
    sections = {name: getattr(settings, name) for name in ("data", "evaluation", "scoring", "mlflow")}
    record = Record(Tracker(settings.mlflow, finished["run_dir"]), settings.model_dump(), folders)
    registered = register(record, **sections)
    assert register(record, **sections) == registered
    mlflow = asdict(registered)
    info = {name: result.info for name, result in stages.items()}
    times = {name: {"seconds": result.seconds, "state": "run"} for name, result in stages.items()}
    content = summary.build(info, times, 1, finished["run_dir"])
    summary.write(finished["run_dir"], {**content, "mlflow": mlflow})
    found = json.loads(Path(finished["run_dir"], "summary.json").read_text())
    assert list(found["models"]) == ["popular", "oracle", "sft", "sft_longer", "aligned"]
    rows = found["models"]["sft"]["hr@1"]["rows"]
    examples = tables.read(stages["data"].folder, "examples", ["split"])["split"].to_pylist()
    assert rows == examples.count("test")
    for figures in found["models"].values():
        for name in ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "dgu@1", "semantic_over_selection"):
            assert figures[name]["low"] is None or figures[name]["low"] <= figures[name]["high"]
            assert figures[name]["value"] is not None
    assert found["models"]["sft"]["catalogue_ratio"]["value"] is not None
    assert found["models"]["oracle"]["catalogue_ratio"]["value"] is None
    assert {"aligned-sft", "aligned-sft_longer"} <= found["differences"].keys()
    assert found["epsilon"].keys() == {"train", "validation"}
    assert {"ece", "pair_accuracy", "temperature"} <= found["oracle"].keys()
    assert found["mlflow"]["version"] == "1"
    assert found["passed_over"] == 0
    for name in ("target_arp", "dataset", "protocol", "peak_pss_bytes", "stages"):
        assert found[name]
    assert "aligned" in summary.table(found)
