"""The packaged recommender, loaded where neither Ray nor rosepo_ray is, ranks as the evaluation stage does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings, ScratchPolicy
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.storage import tables

ROOT = Path(__file__).parents[2]
TITLES = [f"{kind} {place}" for kind in ("Night in", "Return to", "Lost", "The road to") for place in
          ("Paris", "the sea", "Kansas", "nowhere", "Rome")]  # fmt: skip
IDS = [str(100 + i) for i in range(len(TITLES))]
CASES = [
    {"example_id": f"u{i}:{i}", "history": IDS[i : i + 1 + i % 12], "candidates": IDS[(i * 3) % 10 :][:10]}
    for i in range(8)
] + [{"example_id": "long", "history": IDS[:12], "candidates": IDS[5:15]}]

# A fresh process in which `import ray` fails and no rosepo_ray can be found but the one inside the model.
FRESH = """
import importlib.util, json, sys
root = sys.argv[1]
sys.path = [path for path in sys.path if path not in ("", root)]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
assert importlib.util.find_spec("rosepo_ray") is None
sys.modules["ray"] = None
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[2])
cases = json.loads(sys.stdin.read())
out = []
for uri in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(uri)
    found = model.predict(pandas.DataFrame(cases))
    asked = pandas.DataFrame(cases).drop(columns="candidates")
    whole = model.predict(asked, params={"top": 5})
    repeats = model.predict(asked, params={"top": 5, "repeats": True})
    one = model.predict(pandas.DataFrame(cases[3:4]).drop(columns="example_id"))
    try:
        model.predict(pandas.DataFrame([{"history": ["7"], "candidates": ["100"]}]))
        error = None
    except Exception as problem:
        error = str(problem)
    out.append({"whole": whole.to_dict("records"), "repeats": repeats.to_dict("records")})
    out[-1].update({"rows": found.to_dict("records"), "columns": list(found.columns), "one": one["ranked"][0],
                "error": error, "file": sys.modules["rosepo_ray"].__file__})
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A scratch policy and an adapter on a local base that is gone afterwards, both logged; the second registered."""
    import torch

    from rosepo_ray.policy import store
    from rosepo_ray.registry import packaging
    from rosepo_ray.registry.tracking import Tracker

    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("model")
    run = root / "run"
    rows = [
        {"item_id": item, "title": title, "genres": None, "popularity": 1}
        for item, title in zip(IDS, TITLES, strict=True)
    ]
    tables.write_part(str(run / "data"), "items", 0, tables.from_rows("items", rows))
    scratch = store.build(
        ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=320), PromptSettings(), TITLES, [1] * len(TITLES), 1
    )
    store.save(scratch, run / "scratch")
    base = root / "base"
    scratch.model.save_pretrained(base)
    scratch.tokenizer.save_pretrained(base)
    settings = PretrainedPolicy(type="pretrained", model=str(base), lora=LoraSettings(r=2, alpha=4))
    adapted = store.build(settings, PromptSettings(), TITLES, [1] * len(TITLES), 1)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:  # fresh adapters change nothing: give them something to lose
            torch.nn.init.normal_(weight.data, std=0.2)
    store.save(adapted, run / "adapted")
    wanted = {name: ranking(run / name) for name in ("scratch", "adapted")}
    whole, repeats = (
        {name: ranking(run / name, [case | {"candidates": items(case)} for case in CASES]) for name in wanted}
        for items in (lambda case: [item for item in IDS if item not in case["history"]], lambda _: IDS)
    )
    tracker = Tracker(MlflowSettings(), str(run))
    uris = {
        name: packaging.log_model(
            tracker, str(run / name), str(run / "data"), history=10, repeats=False, limits=ScoringSettings(batch=4)
        )
        for name in wanted
    }
    shutil.rmtree(base)
    tags = {"policy": str(run / "adapted"), "protocol": "p", "dataset": "d", "evaluation": "e"}
    versions = [
        packaging.register(tracker, uris["adapted"], "shop", **tags, figures={"hr@1": 0.5, "x": None}) for _ in range(2)
    ]
    return {
        "run": run,
        "tracker": tracker,
        "uris": uris,
        "wanted": wanted,
        "whole": whole,
        "repeats": repeats,
        "versions": versions,
    }


def ranking(folder: Path, cases: list[dict[str, Any]] = CASES) -> list[dict[str, Any]]:
    """What the evaluation stage computes for the cases."""
    from rosepo_ray.catalogue.requests import Request
    from rosepo_ray.evaluation.ranking import rank
    from rosepo_ray.policy import store
    from rosepo_ray.policy.scoring import score

    title = dict(zip(IDS, TITLES, strict=True))
    requests = [
        Request([title[i] for i in case["history"][-10:]], [title[i] for i in case["candidates"]]) for case in cases
    ]
    scores = score(store.load(folder), requests, 64, 4096)
    ranked = [rank(case["example_id"], case["candidates"], s) for case, s in zip(cases, scores, strict=True)]
    return [{"ranked": items, "scores": [float(v) for v in values]} for items, values in ranked]


@pytest.fixture(scope="module")
def answers(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    uris = [made["uris"]["scratch"], "models:/shop@challenger"]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(ROOT), made["tracker"].tracking_uri, *uris],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={"PATH": "/usr/bin:/bin", "HOME": str(made["run"]), "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("place", "name"), [(0, "scratch"), (1, "adapted")])
def test_without_candidates_it_ranks_the_whole_catalogue(
    answers: list[dict[str, Any]], made: dict[str, Any], place: int, name: str
) -> None:
    """Without the items of the whole history (up to twelve, of which ten are shown), unless repeats are asked for."""
    for kind in ("whole", "repeats"):
        for answer, wanted in zip(answers[place][kind], made[kind][name], strict=True):
            assert answer["ranked"] == wanted["ranked"][:5]
            assert answer["scores"] == pytest.approx(wanted["scores"][:5], abs=1e-4)


@pytest.mark.parametrize(("place", "name"), [(0, "scratch"), (1, "adapted")])
def test_a_fresh_process_ranks_as_the_evaluation_does(
    answers: list[dict[str, Any]], made: dict[str, Any], place: int, name: str
) -> None:
    answer, wanted = answers[place], made["wanted"][name]
    assert answer["columns"] == ["ranked", "scores", "unknown"]
    assert [row["ranked"] for row in answer["rows"]] == [row["ranked"] for row in wanted]
    for row, expected in zip(answer["rows"], wanted, strict=True):
        assert row["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    assert answer["one"] == wanted[3]["ranked"], "a row's ranking must not depend on the other rows"
    assert ROOT not in Path(answer["file"]).parents


def test_the_adapter_matters(made: dict[str, Any]) -> None:
    assert made["wanted"]["scratch"] != made["wanted"]["adapted"]


def test_an_unknown_item_gets_a_sentence(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert "row 0: history names 1 unknown item(s) ('7')" in answer["error"]


def test_the_version_is_registered_once_with_its_tags(made: dict[str, Any]) -> None:
    assert made["versions"] == ["1", "1"]
    version = made["tracker"].client.get_model_version_by_alias("shop", "challenger")
    assert str(version.version) == "1"
    assert version.run_id == made["tracker"].run("align")
    assert version.tags["rosepo.protocol"] == "p"
    assert version.tags["rosepo.dataset"] == "d"
    assert version.tags["rosepo.run_dir"] == str(made["run"])
    assert version.tags["rosepo.hr_at_1"] == "0.5"
    assert "rosepo.x" not in version.tags
    assert made["tracker"].model == {"name": "shop", "version": "1"}


def test_another_policy_in_the_same_run_directory_is_another_version(made: dict[str, Any]) -> None:
    from rosepo_ray.registry import packaging

    tags = {"policy": str(made["run"] / "scratch"), "protocol": "p", "dataset": "d", "evaluation": "e"}
    uri = made["uris"]["scratch"]
    assert packaging.register(made["tracker"], uri, "shop-2", **tags, figures={}) == "1"
    tags["policy"] = str(made["run"] / "adapted")
    assert packaging.register(made["tracker"], made["uris"]["adapted"], "shop-2", **tags, figures={}) == "2"


def test_the_requirements_name_neither_ray_nor_a_local_build() -> None:
    from rosepo_ray.registry import packaging

    names = {line.split("==")[0] for line in packaging.requirements()}
    assert {"torch", "transformers", "mlflow"} <= names
    assert not {"ray", "rosepo-ray", "rosepo_ray"} & names
    assert not any("+" in line for line in packaging.requirements())
