"""The gates of a promotion, with figures derived by hand, and what the job does with its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.errors import BadInput, Refused
from rosepo_ray.registry import gates
from rosepo_ray.run import promote
from rosepo_ray.storage import tables

ITEMS = {"t": 10, "p": 20, "q": 6, "r": 14}


def evidence(tops: list[str], users: list[str] | None = None, **changed: Any) -> gates.Evidence:
    """One row per top item; every target is `t` (popularity 10), the candidates are all four items."""
    users = users or [f"u{i}" for i in range(len(tops))]
    candidates = sorted(ITEMS)
    rows = [
        {
            "example_id": f"{user}:{i}",
            "user_id": user,
            "history": ["t"],
            "target": "t",
            "candidates": candidates,
            "split": "test",
        }
        for i, user in enumerate(users)
    ]
    predictions = [
        {
            "example_id": row["example_id"],
            "user_id": row["user_id"],
            "ranked": [top, *(item for item in candidates if item != top)],
            "scores": [0.0, -1.0, -2.0, -3.0],
            "generated": outcome and "text",
            "outcome": outcome,
        }
        for row, top, outcome in zip(rows, tops, changed.get("outcomes", [None] * len(tops)), strict=True)
    ]
    popularity = changed.get("popularity", ITEMS)
    items = [{"item_id": i, "title": i, "genres": None, "popularity": popularity[i]} for i in candidates]
    return gates.Evidence(
        tables.from_rows("predictions", changed.get("predictions", predictions)),
        tables.from_rows("examples", changed.get("rows", rows)),
        tables.from_rows("items", items),
    )


def test_the_same_predictions_differ_by_exactly_nothing() -> None:
    hr, gap = gates.judge(evidence(["t", "p", "q"]), evidence(["t", "p", "q"]), PromotionSettings())
    assert (hr.difference, hr.low, hr.high, hr.passed) == (0, 0, 0, True)
    assert (gap.difference, gap.low, gap.high, gap.passed) == (0, 0, 0, True)
    assert hr.challenger == pytest.approx(1 / 3)
    # Tops t, p, q have popularity 10, 20, 6: mean 12, and the targets' mean is 10.
    assert gap.challenger == pytest.approx(2.0)


def test_a_gap_below_the_targets_counts_like_one_above() -> None:
    # Champion recommends q everywhere: 6 - 10 = -4, gap 4. Challenger r: 14 - 10 = 4, gap 4. Growth 0 in every draw.
    gap = gates.judge(evidence(["q"] * 3), evidence(["r"] * 3), PromotionSettings(gap_margin=0))[1]
    assert (gap.champion, gap.challenger, gap.difference, gap.low, gap.high) == (4, 4, 0, 0, 0)
    assert gap.passed


def test_each_gate_at_its_bound_and_past_it() -> None:
    # Champion q (gap 4), challenger p (gap 10): growth 6 in every draw.
    champion, challenger = evidence(["q"] * 4), evidence(["p"] * 4)
    assert gates.judge(champion, challenger, PromotionSettings(gap_margin=6))[1].passed
    assert not gates.judge(champion, challenger, PromotionSettings(gap_margin=5.99))[1].passed
    # From always right to never right: HR@1 falls by 1 in every draw.
    hr = gates.judge(evidence(["t"] * 4), evidence(["q"] * 4), PromotionSettings(hr_margin=1, gap_margin=99))[0]
    assert (hr.difference, hr.low, hr.high, hr.passed) == (-1, -1, -1, True)
    assert not gates.judge(evidence(["t"] * 4), evidence(["q"] * 4), PromotionSettings(hr_margin=0.99))[0].passed


def test_the_interval_decides_not_the_mean_and_users_stay_whole() -> None:
    # User a loses all four rows, user b keeps all four: the mean is -1/2. A draw of two users is -1, -1/2 or 0 with
    # probabilities 1/4, 1/2, 1/4, so the interval is [-1, 0]. Rows drawn singly would reach -1 in 1 of 256 draws only.
    users = ["a"] * 4 + ["b"] * 4
    champion, challenger = evidence(["t"] * 8, users), evidence(["q"] * 4 + ["t"] * 4, users)
    hr = gates.judge(champion, challenger, PromotionSettings(hr_margin=0.6))[0]
    assert (hr.difference, hr.low, hr.high) == (-0.5, -1, 0)
    assert not hr.passed


def test_the_upper_end_of_the_gap_decides() -> None:
    # User a gets p (10 above the targets), user b stays at the target: growth 5 in the mean, 0 to 10 over the draws.
    users = ["a"] * 4 + ["b"] * 4
    champion, challenger = evidence(["t"] * 8, users), evidence(["p"] * 4 + ["t"] * 4, users)
    gap = gates.judge(champion, challenger, PromotionSettings(gap_margin=9))[1]
    assert (gap.difference, gap.low, gap.high) == (5, 0, 10)
    assert not gap.passed
    assert gates.judge(champion, challenger, PromotionSettings(gap_margin=10))[1].passed


def test_texts_that_name_no_item_any_more_are_a_gate() -> None:
    # Two of four users get a text that names no item: the share falls from 1 to 1/2, in the worst draw to 0.
    well, badly = ["item", "ambiguous", "item", "item"], ["item", "unknown", "unknown", "ambiguous"]
    champion, challenger = evidence(["t"] * 4, outcomes=well), evidence(["t"] * 4, outcomes=badly)
    *_, writing = gates.judge(champion, challenger, PromotionSettings())
    assert (writing.name, writing.champion, writing.challenger) == ("catalogue_ratio", 1, 0.5)
    assert (writing.low, writing.passed) == (-1, False)
    assert gates.judge(challenger, champion, PromotionSettings(writing_margin=0))[-1].passed
    silent = gates.judge(evidence(["t"] * 4), challenger, PromotionSettings())
    assert [gate.name for gate in silent] == ["hr@1", "popularity_gap_abs"]


def test_ids_join_the_rows_not_positions() -> None:
    straight = evidence(["t", "p", "q"])
    predictions, examples = (table.take([2, 0, 1]) for table in (straight.predictions, straight.examples))
    turned = gates.Evidence(predictions, examples, straight.items)
    assert [g.difference for g in gates.judge(straight, turned, PromotionSettings())] == [0, 0]


def test_other_rows_are_refused() -> None:
    with pytest.raises(Refused, match="3 rows and the challenger on 2, 2 of them"):
        gates.judge(evidence(["t"] * 3), evidence(["t"] * 2), PromotionSettings())


def test_other_targets_or_candidates_are_refused() -> None:
    rows = evidence(["t", "t"]).examples.to_pylist()
    rows[1]["target"] = "p"
    with pytest.raises(Refused, match="1 rows, u1:1 among them"):
        gates.judge(evidence(["t", "t"]), evidence(["t", "t"], rows=rows), PromotionSettings())


def test_other_popularities_are_refused() -> None:
    with pytest.raises(Refused, match="popularities differ"):
        gates.judge(evidence(["t"]), evidence(["t"], popularity={**ITEMS, "p": 21}), PromotionSettings())


@pytest.mark.parametrize("fault", ["missing", "twice", "foreign"])
def test_predictions_that_do_not_answer_every_row_are_refused(fault: str) -> None:
    predictions = evidence(["t", "t"]).predictions.to_pylist()
    if fault == "missing":
        predictions.pop()
    elif fault == "twice":
        predictions.append(dict(predictions[0]))
    else:
        predictions[0]["ranked"] = ["t", "p", "q", "zz"]
    with pytest.raises(Refused, match="evaluate that version"):
        gates.judge(evidence(["t", "t"]), evidence(["t", "t"], predictions=predictions), PromotionSettings())


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--run"],
        ["--rollback", "--promotion.hr_margin", "0.1"],
        ["--run", "x", "--promotion.unknown", "1"],
        ["--run", "x", "--align.beta", "1"],
        ["--run", "x", "--mlflow.experiment", "e"],
    ],
)
def test_wrong_use_of_the_job_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        promote.main(argv, "promote")
    assert caught.value.code == 2
    assert "promote: error" in capsys.readouterr().err


def test_no_run_directory_exits_with_2_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote.main(["--run", str(tmp_path / "none")], "promote") == 2
    assert "settings.yaml is missing" in capsys.readouterr().err


def test_settings_come_from_the_run_then_environment_then_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump({"promotion": {"hr_margin": 0.5, "gap_margin": 1.0}, "mlflow": {"model": "mine"}, "seed": 9})
    )
    monkeypatch.setenv("ROSEPO_PROMOTION__GAP_MARGIN", "2.5")
    _, given = promote.arguments(["--run", str(tmp_path), "--promotion.hr_margin", "0.25"], "promote")
    settings = promote.settings_of(str(tmp_path), given, "promote")
    assert settings.promotion == PromotionSettings(hr_margin=0.25, gap_margin=2.5)
    assert settings.mlflow.model == "mine"
    with pytest.raises(BadInput, match="hr_margin"):
        promote.settings_of(str(tmp_path), ["--promotion.hr_margin", "-1"], "promote")


def test_a_run_that_registered_nothing_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text("mlflow: {tracking_uri: 'sqlite:////nowhere/mlflow.db'}\n")
    assert promote.main(["--run", str(tmp_path)], "promote") == 2
    assert "registered no model" in capsys.readouterr().err


def test_an_address_without_its_credentials_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "settings.yaml").write_text("")
    (tmp_path / "mlflow.json").write_text('{"tracking_uri": "https://***@host"}')
    assert promote.main(["--run", str(tmp_path)], "promote") == 2
    assert "without its credentials" in capsys.readouterr().err
