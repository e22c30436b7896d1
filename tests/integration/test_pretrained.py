"""The whole pipeline on a pre-trained policy: a tiny random Qwen3 with adapters, a worded prompt that lists the
candidates, single targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rosepo_ray import storage
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import cluster
from rosepo_ray.oracle.replay import Replay
from rosepo_ray.policy.checks import titles
from rosepo_ray.run import pipeline
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.stages.align import align
from rosepo_ray.storage import done, metrics, tables
from tests import tiny_models
from tests.synthetic import items, tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("pretrained")
    model = tiny_models.save(folder / "qwen3", "qwen3", [title for _, title in items()])
    values = tiny(
        folder / "log",
        data={"candidates": 5, "history": 3},
        prompt={"template": "instruction", "list_candidates": True},
        sft={"dense": False, "steps": 6, "batch": 8, "lr": 5e-3},
        oracle={"steps": 4},
        rejection={"examples": 16, "validation_examples": 8},
        align={"batch": 8},
        evaluation={"draws": 100, "examples": 40},
        sft_longer={"enabled": False},
    )
    values["policy"] = {"type": "pretrained", "model": str(model), "lora": {"r": 4, "alpha": 8}}
    return build(values)


@pytest.fixture(scope="module")
def finished(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> dict[str, pipeline.Finished]:
    return pipeline.run(settings, str(tmp_path_factory.mktemp("run")))


def test_every_stage_left_its_marker_and_only_adapters_are_stored(finished: dict[str, Any]):
    assert list(finished) == ["data", "sft", "oracle", "reject", "calibrate", "align", "evaluate"]
    for result in finished.values():
        marker = done.read(result.folder)
        assert marker is not None
        for name, entry in marker["files"].items():
            assert storage.sha256(storage.join(result.folder, name)) == entry["sha256"]
    for stage in ("sft", "align"):
        model = Path(finished[stage].folder, "model")
        assert (model / "adapter" / "adapter_model.safetensors").is_file()
        assert not (model / "model").exists()  # the base stays where it is


def test_the_reference_is_the_sft_adapter_and_not_the_bare_base(settings: Settings, finished: dict[str, Any]):
    """The stored log-probabilities are recomputed title by title: with the SFT adapter they agree, without not."""
    from rosepo_ray.catalogue.requests import Request
    from rosepo_ray.policy import pretrained, store
    from rosepo_ray.policy.model import Policy
    from rosepo_ray.policy.scoring import score

    table = tables.read(finished["data"].folder, "items")
    title_of = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    policy = store.load(Path(finished["sft"].folder, "model"))
    bare, tokenizer = pretrained.load_base(settings.policy, 448)  # type: ignore[arg-type]
    base = Policy(bare, tokenizer, settings.policy, settings.prompt)
    pairs = tables.read(finished["reject"].folder, "pairs").to_pylist()
    assert sum(row["split"] == "train" for row in pairs) == 16
    differences = []
    for row in pairs[:12]:
        history, listed = [title_of[i] for i in row["history"]], [title_of[i] for i in row["candidates"]]

        def logp(model: Policy, item: str, history: list[str] = history, listed: list[str] = listed) -> float:
            return float(score(model, [Request(history, [title_of[item]], listed)], 1, 4096)[0][0])

        assert row["ref_chosen_logp"] == pytest.approx(logp(policy, row["chosen"]), abs=1e-3)
        assert row["ref_rejected_logps"] == pytest.approx([logp(policy, i) for i in row["rejected"]], abs=1e-3)
        wrong = max((i for i in row["candidates"] if i != row["chosen"]), key=lambda i: logp(policy, i))
        assert row["rejected"] == [wrong]
        differences.append(abs(row["ref_chosen_logp"] - logp(base, row["chosen"])))
    assert min(differences) > 0.1


def test_alignment_starts_at_the_reference(finished: dict[str, Any]):
    rows = metrics.read(finished["align"].folder)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert rows[1]["margin"] != pytest.approx(0, abs=1e-4)  # the second step sees what the first one changed


def test_two_workers_with_accumulation_train_adapters_as_one_does(
    settings: Settings, finished: dict[str, Any], tmp_path: Path
):
    """Two backward passes through the adapters on each worker before their gradients are summed."""
    changes = {
        "cluster": {"workers": 2, "threads": 1},
        "align": {"micro_batch": 2},
    }
    two = settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=values) for name, values in changes.items()}
    )
    two = two.model_copy(update={"oracle": Replay(folder=finished["align"].folder)})
    align.start(two, {name: result.folder for name, result in finished.items()}, str(tmp_path / "align"))
    one, found = metrics.read(finished["align"].folder), metrics.read(str(tmp_path / "align"))
    assert abs(one[1]["margin"]) > 1e-3  # else the first step changed nothing that could differ
    for row, before in zip(found, one, strict=True):
        for name in ("loss", "margin", "chosen_logp", "grad_norm", "count"):
            assert row[name] == pytest.approx(before[name], abs=1e-4, rel=1e-4), name


def test_answers_are_judged_among_the_listed_candidates(finished: dict[str, Any]):
    found = json.loads(storage.read_bytes(storage.join(finished["evaluate"].folder, "evaluation.json")))
    for model in ("sft", "aligned"):
        predictions = tables.read(storage.join(finished["evaluate"].folder, "predictions", model), "predictions")
        assert predictions.num_rows == 40
        assert all(text is not None for text in predictions["generated"].to_pylist())
        assert found["models"][model]["valid_ratio"]["value"] is not None


def test_a_prompt_without_room_is_known_before_sft(settings: Settings, finished: dict[str, Any]):
    data, generate = finished["data"].folder, settings.evaluation.generate
    titles.refuse_unreadable_titles(settings.policy, settings.prompt, data, generate=generate)
    cramped = settings.model_copy(update={"prompt": settings.prompt.model_copy(update={"max_tokens": 60})})
    with pytest.raises(BadInput, match=r"which lists 5 candidates, has \d+ tokens .* prompt\.max_tokens is 60"):
        titles.refuse_unreadable_titles(cramped.policy, cramped.prompt, finished["data"].folder, generate=False)


def test_a_layout_that_does_not_fit_the_cluster_is_refused_with_the_sum(settings: Settings):
    import ray

    there = int(ray.cluster_resources()["CPU"])
    cluster._refuse_misfit(settings.cluster, cluster.need(settings.cluster, True))
    wide = settings.model_copy(update={"cluster": settings.cluster.model_copy(update={"workers": there})})
    cpus = f"{3 * there + 0.25:g}"  # per worker itself and its stream of two, and one replica
    with pytest.raises(BadInput) as caught:
        cluster._refuse_misfit(wide.cluster, cluster.need(wide.cluster, True))
    told = str(caught.value)
    assert told.startswith(f"the run needs {cpus} CPUs and 0 GPUs ({there} training worker(s) x 1 + 0.25 for oracle")
    assert f"+ {there} stream(s) x 2 = {cpus} CPUs in alignment" in told
    assert f"the cluster has {there} and 0; lower cluster.workers" in told
    assert caught.value.exit_code == 2
    growing = wide.model_copy(update={"cluster": wide.cluster.model_copy(update={"autoscaling": True})})
    cluster._refuse_misfit(growing.cluster, cluster.need(growing.cluster, True))
