"""Figures by step: followed while they grow, repeated after a checkpoint, joined at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.storage import metrics


def steps(rows: list[metrics.Row]) -> list[int]:
    return [row["step"] for row in rows]


def test_a_reader_follows_the_newest_part_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SECONDS", -1.0)  # every row is written at once
    writer = metrics.Writer(str(tmp_path))
    assert metrics.runs(str(tmp_path)) == []
    writer.add({"step": 1, "loss": 0.5})
    assert steps(metrics.read_after(str(tmp_path), 0)) == [1]
    writer.add({"step": 2, "loss": 0.25})
    (row,) = metrics.read_after(str(tmp_path), 1)
    assert (row["step"], row["loss"]) == (2, 0.25)
    assert row["time"] > 1.7e9
    assert metrics.runs(str(tmp_path)) == [""]
    assert len(list((tmp_path / "metrics").iterdir())) == 1


def test_rows_wait_some_seconds_or_for_the_end_of_their_part(tmp_path: Path) -> None:
    writer = metrics.Writer(str(tmp_path))
    writer.add({"step": 1, "loss": 0.5})
    assert metrics.read_after(str(tmp_path), 0) == []
    writer.close_part()
    assert steps(metrics.read_after(str(tmp_path), 0)) == [1]


@settings(max_examples=25, deadline=None)
@given(ends=st.lists(st.integers(1, 12), min_size=1, max_size=6), every=st.integers(1, 4), seen=st.integers(0, 12))
def test_however_often_a_run_is_killed_each_step_is_there_once(
    ends: list[int], every: int, seen: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each life goes on after the last checkpoint, a multiple of `every`, and may die with rows written after it."""
    folder, begin, furthest = str(tmp_path_factory.mktemp("run")), 0, max(ends)
    for end in (*ends, furthest):
        writer = metrics.Writer(folder)
        for step in range(begin + 1, max(end, begin) + 1):
            writer.add({"step": step, "loss": float(step)})
            writer._write()
            if step % every == 0:
                writer.close_part()
        begin = max(end, begin) // every * every
    assert steps(metrics.read_after(folder, seen)) == list(range(seen + 1, furthest + 1))
    metrics.assemble(folder)
    assert steps(metrics.read(folder)) == list(range(1, furthest + 1))
    assert steps(metrics.read_after(folder, seen)) == list(range(seen + 1, furthest + 1))


def test_the_folds_of_an_oracle_are_runs_of_their_own(tmp_path: Path) -> None:
    for fold in ("fold0", "fold1"):
        writer = metrics.Writer(str(tmp_path / fold))
        writer.add({"step": 1, "loss": 1.0})
        writer.close_part()
    metrics.assemble(str(tmp_path / "fold0"))
    assert metrics.runs(str(tmp_path)) == ["fold0", "fold1"]
