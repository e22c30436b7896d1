"""Promotion and rollback through the job, on a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.run import promote as job
from rosepo_ray.storage import tables

MODEL = "rosepo-recommender"
ITEMS = {"t": 10, "p": 20, "q": 6}
ROWS = 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories with a registered model each: what is recommended in them decides their fate."""
    from rosepo_ray.policy import store

    root = tmp_path_factory.mktemp("shop")
    policy = store.build(
        ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280), PromptSettings(), list(ITEMS), [1, 1, 1], 1
    )
    store.save(policy, root / "policy")
    return {
        "good": make_run(root, "good", ["t"] * ROWS),
        "bad": make_run(root, "bad", ["p"] * ROWS),
        "same": make_run(root, "same", ["t"] * ROWS),
        "foreign": make_run(root, "foreign", ["t"] * ROWS, protocol="other"),
        "bare": make_run(root, "bare", None),
    }


def make_run(root: Path, name: str, tops: list[str] | None, protocol: str = "protocol") -> Path:
    """A finished run as the register stage leaves it, with the real calls; `tops` None leaves the evaluation out."""
    from rosepo_ray.registry import packaging
    from rosepo_ray.registry.tracking import Tracker

    run = root / name
    data, evaluation = str(run / "data"), str(run / "evaluate" / "predictions" / "aligned")
    items = [{"item_id": i, "title": i, "genres": None, "popularity": n} for i, n in ITEMS.items()]
    tables.write_part(data, "items", 0, tables.from_rows("items", items))
    tracker = Tracker(MlflowSettings(), str(run))
    (run / "settings.yaml").write_text("promotion: {hr_margin: 0.01}\n")
    uri = packaging.log_model(tracker, str(root / "policy"), data, history=10, repeats=False, limits=ScoringSettings())
    if tops is not None:
        examples, predictions = [], []
        for i, top in enumerate(tops):
            example = {"example_id": f"u{i}:1", "user_id": f"u{i}"}
            examples.append(example | {"history": ["q"], "target": "t", "candidates": ["p", "q", "t"], "split": "test"})
            ranked = [top, *(item for item in ("p", "q", "t") if item != top)]
            predictions.append(
                example | {"ranked": ranked, "scores": [0.0, -1.0, -2.0], "generated": None, "outcome": None}
            )
        # A row of another split must not count.
        examples.append({**examples[0], "example_id": "v:1", "split": "validation"})
        tables.write_part(data, "examples", 0, tables.from_rows("examples", examples))
        tables.write_part(evaluation, "predictions", 0, tables.from_rows("predictions", predictions))
        packaging.log_evidence(
            tracker, predictions=evaluation, data=data, examples=tables.read(data, "examples", split="test")
        )
    packaging.register(
        tracker,
        uri,
        MODEL,
        policy=str(root / "policy"),
        protocol=protocol,
        dataset="dataset",
        evaluation=evaluation,
        figures={},
    )
    return run


@pytest.fixture
def client(shop: dict[str, Path]) -> Any:
    """The registry with no champion."""
    from rosepo_ray.registry import promotion, server

    found = server.connect(f"sqlite:///{shop['good'].parent / 'mlflow.db'}")
    for alias in ("champion", "previous"):
        if promotion.by_alias(found, MODEL, alias) is not None:
            found.delete_registered_model_alias(MODEL, alias)
    return found


def alias(client: Any, name: str) -> str | None:
    from rosepo_ray.registry.promotion import by_alias

    found = by_alias(client, MODEL, name)
    return None if found is None else str(found.version)


def promote(run: Path, *more: str) -> int:
    code: int = job.main(["--run", str(run), *more], "promote")
    return code


def test_the_first_version_is_promoted_and_says_that_nothing_was_compared(
    client: Any, shop: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(shop["good"], "--dry-run") == 0
    assert alias(client, "champion") is None
    assert promote(shop["good"]) == 0
    out = capsys.readouterr().out
    assert "there is no champion to compare with" in out
    assert f"model registry sqlite:///{shop['good'].parent / 'mlflow.db'}\n" in out
    assert (alias(client, "champion"), alias(client, "previous")) == ("1", None)
    evidence = json.loads(client.get_model_version(MODEL, "1").tags["rosepo.promotion"])
    assert evidence["outcome"] == "promoted"
    assert evidence["gates"] == []
    assert evidence["thresholds"] == {
        "hr_margin": 0.01,
        "gap_margin": 5.0,
        "writing_margin": 0.02,
        "margins": {},
    }
    assert "@" in evidence["who"]
    assert promote(shop["good"]) == 0
    assert "champion already" in capsys.readouterr().out


def test_a_worse_version_is_refused_with_its_figures(
    client: Any, shop: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(shop["good"]) == 0
    assert promote(shop["bad"], "--dry-run") == 3
    assert "rosepo.promotion" not in client.get_model_version(MODEL, "2").tags
    assert promote(shop["bad"]) == 3
    out = capsys.readouterr().out
    assert "hr@1: champion 1, challenger 0, difference -1 [-1, -1], not below -0.01: FAIL" in out
    # Popularity 20 recommended where the targets have 10: the gap grows from 0 to 10.
    assert "popularity_gap_abs: champion 0, challenger 10, difference +10 [+10, +10], not above +5: FAIL" in out
    assert (alias(client, "champion"), alias(client, "previous")) == ("1", None)
    tags = client.get_model_version(MODEL, "2").tags
    assert tags["rosepo.promotion.outcome"] == "refused"
    assert [gate["passed"] for gate in json.loads(tags["rosepo.promotion"])["gates"]] == [False, False]


def test_margins_of_the_command_line_decide(client: Any, shop: dict[str, Path]) -> None:
    assert promote(shop["good"]) == 0
    margins = ["--promotion.hr_margin", "1", "--promotion.gap_margin", "10", "--dry-run"]
    assert promote(shop["bad"], *margins) == 0
    assert alias(client, "champion") == "1"


def test_an_equal_version_is_promoted_and_can_be_taken_back_once(
    client: Any, shop: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(shop["good"]) == 0
    assert promote(shop["same"]) == 0
    assert (alias(client, "champion"), alias(client, "previous")) == ("3", "1")
    assert promote(shop["same"]) == 0
    assert alias(client, "previous") == "1", "promoting the champion again must not lose the way back"
    uri = f"sqlite:///{shop['good'].parent / 'mlflow.db'}"
    assert job.main(["--rollback", "--mlflow.tracking_uri", uri, "--dry-run"], "promote") == 0
    assert alias(client, "champion") == "3"
    assert job.main(["--rollback", "--mlflow.tracking_uri", uri], "promote") == 0
    assert (alias(client, "champion"), alias(client, "previous")) == ("1", None)
    assert json.loads(client.get_model_version(MODEL, "3").tags["rosepo.rolled_back"])["to"] == "1"
    capsys.readouterr()
    assert job.main(["--rollback", "--run", str(shop["good"])], "promote") == 3
    assert "no version with the alias 'previous'" in capsys.readouterr().err


def test_another_protocol_is_refused(client: Any, shop: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(shop["good"]) == 0
    capsys.readouterr()
    assert promote(shop["foreign"]) == 3
    told = capsys.readouterr()
    assert "judged under the protocol other" in told.err
    assert "model registry sqlite:///" in told.out
    assert alias(client, "champion") == "1"


def test_a_version_without_an_evaluation_is_refused_even_as_the_first(
    client: Any, shop: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(shop["bare"]) == 3
    assert "has no stored evaluation" in capsys.readouterr().err
    assert alias(client, "champion") is None


def test_a_database_that_is_not_there_is_wrong_use_and_is_not_made(
    shop: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.db"
    assert promote(shop["good"], "--mlflow.tracking_uri", f"sqlite:///{file}") == 2
    assert "no MLflow database" in capsys.readouterr().err
    assert not file.exists()
