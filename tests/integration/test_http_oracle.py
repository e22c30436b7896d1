"""A run whose oracle is somebody's ranker over HTTP, and whose objective, from outside, wants its scores."""

from __future__ import annotations

import csv
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rosepo_ray import storage
from rosepo_ray.errors import Refused, original
from rosepo_ray.run import pipeline
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import metrics, tables
from tests.synthetic import tiny

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

_FILE = Path(__file__).parents[2] / "examples" / "oracle_server.py"
_SPEC = importlib.util.spec_from_file_location("oracle_server", _FILE)
oracle_server: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle_server)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("http")
    values = tiny(folder / "log", rejection={"k": 2}, align={"objective": {"type": "tests.objectives:ByScores"}})
    with Path(values["data"]["interactions"]).open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))
    server = oracle_server.server(oracle_server.Ranker(rows))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values["oracle"] = {"type": "http", "url": f"http://127.0.0.1:{server.server_port}/", "batch": 16}
    settings = build(values, {"sft_longer": {"enabled": False}, "evaluation": {"catalogue_examples": 20}})
    settings.oracle.refuse_hopeless_run(settings.align.objective)
    run_dir = str(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        stages = pipeline.run(settings, run_dir)
        yield {"settings": settings, "run_dir": run_dir, "stages": stages, "ranker": server.RequestHandlerClass.ranker}
    server.shutdown()
    server.server_close()


def _align(finished: dict[str, Any], settings: Settings, out: Path) -> None:
    step = next(p for p in pipeline.plan(finished["settings"], finished["run_dir"]) if p.stage.name == "align")
    step.stage.start(settings, step.inputs, str(out))


def test_its_temperature_is_fitted_and_joins_its_version(finished: dict[str, Any]):
    found = {name: result.info for name, result in finished["stages"].items()}
    assert found["oracle"] == {"version": "neighbours-1/T=1", "steps": 0, "final": None}
    temperature = found["calibrate"]["temperature"]
    assert found["calibrate"]["version"] == f"neighbours-1/T={temperature:.9g}"
    assert found["calibrate"]["pairs"] == 80
    assert 0.6 < found["calibrate"]["pair_accuracy"] <= 1  # what stood next to one another tells something
    assert found["align"]["oracle_versions"] == [found["calibrate"]["version"]]


def test_smoothing_and_scores_are_what_the_ranker_says(finished: dict[str, Any]):
    stages, ranker = finished["stages"], finished["ranker"]
    temperature = stages["calibrate"].info["temperature"]
    pairs = {row["example_id"]: row for row in tables.read(stages["reject"].folder, "pairs").to_pylist()}
    smoothing = tables.read(stages["align"].folder, "smoothing").to_pylist()
    assert len(smoothing) == 64
    for row in smoothing:
        pair = pairs[row["example_id"]]
        scores = np.array(ranker.score(pair["user_id"], pair["history"], [pair["chosen"], *pair["rejected"]])[0])
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
        doubt = 1 / (1 + np.exp((scores[0] - scores[1:]) / temperature))
        assert row["epsilon"] == pytest.approx(np.minimum(doubt, 0.5), abs=1e-5)


def test_it_stands_in_the_evaluation_by_candidates_and_by_the_whole_catalogue(finished: dict[str, Any]):
    stages, ranker = finished["stages"], finished["ranker"]
    models = stages["evaluate"].info["models"]
    assert models["oracle"]["hr@1"]["value"] > models["popular"]["hr@1"]["value"]
    assert models["oracle"]["full_hr@10"]["value"] is not None
    examples = {row["example_id"]: row for row in tables.read(stages["data"].folder, "examples").to_pylist()}
    predictions = tables.read(storage.join(stages["evaluate"].folder, "predictions", "oracle"), "predictions")
    items = tables.read(stages["data"].folder, "items")["item_id"].to_pylist()
    taken = {row["user_id"]: row["whole"] for row in tables.read(stages["data"].folder, "taken").to_pylist()}
    ranked = [row for row in predictions.to_pylist() if row["top"] is not None]
    assert len(ranked) >= 20
    for row in ranked[:5]:
        example = examples[row["example_id"]]
        left = [item for item in items if item not in taken[row["user_id"]][: example["seen"]]]
        scores, _ = ranker.score(row["user_id"], example["history"], left)
        assert row["top_scores"] == pytest.approx(sorted(scores, reverse=True)[:10], abs=1e-5)


def test_the_scores_are_replayed_without_asking(finished: dict[str, Any], tmp_path: Path):
    settings, folder = finished["settings"], finished["stages"]["align"].folder
    replay = build({"oracle": {"type": "replay", "folder": folder}}).oracle
    _align(finished, settings.model_copy(update={"oracle": replay}), tmp_path / "align")
    first, second = (metrics.read(where) for where in (folder, str(tmp_path / "align")))
    assert [row["loss"] for row in second] == pytest.approx([row["loss"] for row in first], abs=1e-6)


def test_a_ranker_that_changes_in_the_middle_of_a_run_ends_it(finished: dict[str, Any], tmp_path: Path):

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished["ranker"], "version", "neighbours-2")
        with pytest.raises(Exception, match="neighbours-2") as told:
            _align(finished, finished["settings"], tmp_path / "align")
    assert isinstance(original(told.value), Refused)
