"""Looks at validation rows while a fit trains: which are due, which is best, when to end, and that a resumed run knows
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rosepo_ray.config.training import FitSettings, ValidationSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.training import checkpoint, in_process, loop
from rosepo_ray.training.watch import Watch
from rosepo_ray.training.world import World
from tests.unit.training.test_loop import Line, Squares

FIT = FitSettings(batch=4, micro_batch=4, lr=0.1, warmup=0, checkpoint_every=5)


def watching(figures: list[dict[str, float]], from_start: bool = False, **settings: Any) -> Watch:
    answers = iter(figures)
    return Watch(ValidationSettings(every=2, **settings), lambda: next(answers), from_start=from_start)


def looks(watch: Watch, steps: int, total: int) -> list[tuple[int, bool]]:
    """(step, whether it was better) of each look, up to the end."""
    found = []
    for step in range(steps + 1):
        if watch.due(step, total):
            found.append((step, watch.look(step)[1]))
            if watch.done:
                break
    return found


def hr(*values: float, texts: list[float] | None = None) -> list[dict[str, float]]:
    rows = [{"hr@1": value, "ndcg@10": 1 - value, "loss": value} for value in values]
    return [row | {"texts": share} for row, share in zip(rows, texts, strict=True)] if texts else rows


def test_looks_are_due_every_so_many_steps_and_at_the_end() -> None:
    assert [step for step, _ in looks(watching(hr(*[0.5] * 9)), 7, 7)] == [2, 4, 6, 7]
    assert [step for step, _ in looks(watching(hr(*[0.5] * 9), from_start=True), 4, 4)] == [0, 2, 4]
    assert looks(Watch(ValidationSettings(), dict), 9, 9) == []


def test_better_is_a_higher_metric_and_a_lower_loss_and_an_equal_one_is_none() -> None:
    values = (0.5, 0.4, 0.6, 0.6)
    assert [better for _, better in looks(watching(hr(*values)), 8, 8)] == [True, False, True, False]
    assert [better for _, better in looks(watching(hr(*values), metric="loss"), 8, 8)] == [True, True, False, False]
    assert [better for _, better in looks(watching(hr(*values), metric="ndcg@10"), 8, 8)] == [True, True, False, False]


def test_what_writes_fewer_titles_than_at_first_is_never_better() -> None:
    figures = hr(0.5, 0.6, 0.7, 0.55, texts=[0.8, 0.79, 0.7, 0.9])
    watch = watching(figures, texts=0.98)
    assert [better for _, better in looks(watch, 8, 8)] == [True, True, False, False]  # 0.7 < 0.98 * 0.8
    assert watch.best_at == 4
    assert "best hr@1 0.6 after step 4" in repr(watch)
    assert [better for _, better in looks(watching(figures, texts=0), 8, 8)] == [True, True, True, False]


def test_patience_counts_the_looks_since_the_best() -> None:
    values = hr(0.5, 0.4, 0.6, 0.5, 0.5, 0.7)
    assert looks(watching(values, patience=2), 12, 12)[-1] == (10, False)
    assert looks(watching(values), 12, 12)[-1] == (12, True)


def program(watch: Watch | None) -> Squares:
    made = Squares(Line())
    made.watch = watch
    return made


def test_the_fit_ends_with_the_best_weights() -> None:
    plain = program(None)
    weights: dict[int, torch.Tensor] = {}
    in_process.train(plain, FIT, 6, lambda step, _: weights.update({step: plain.module.weight.detach().clone()}))
    watched = program(watching(hr(0.5, 0.9, 0.6, 0.7), patience=2))
    rows: list[dict[str, float]] = []
    in_process.train(watched, FIT, 40, lambda step, figures: rows.append({"step": step, **figures}))
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row.get("val_hr@1") for row in rows] == [None, 0.5, None, 0.9, None, 0.6, None, 0.7]
    assert rows[1]["val_seconds"] >= 0
    assert watched.watch is not None
    assert watched.watch.best_at == 4
    # The schedule is another one over 40 steps, so the weights are compared with the watched run's own at step 4.
    again = program(None)
    seen: dict[int, torch.Tensor] = {}

    class Enough(Exception):
        pass

    def note(step: int, _: dict[str, float]) -> None:
        seen[step] = again.module.weight.detach().clone()
        if step == 4:
            raise Enough

    with pytest.raises(Enough):
        in_process.train(again, FIT, 40, note)
    assert torch.equal(watched.module.weight, seen[4])
    assert not torch.equal(seen[4], weights[4])


def test_a_first_look_can_win() -> None:
    watched = program(watching(hr(0.9, 0.5, 0.5), from_start=True))
    before = watched.module.weight.detach().clone()
    steps: list[int] = []
    in_process.train(watched, FIT, 4, lambda step, _: steps.append(step))
    assert steps == [0, 1, 2, 3, 4]
    assert torch.equal(watched.module.weight, before)


def test_a_killed_run_goes_on_with_what_it_had_seen(tmp_path: Path) -> None:
    values = hr(0.5, 0.9, 0.6, 0.7, 0.8)

    def run(made: Squares, state: loop.State, until: int | None = None) -> list[int]:
        """Train; stored as the trainer stores, and cut off at a step."""
        saved: list[int] = []

        def store(state: loop.State) -> None:
            checkpoint.store(state, str(tmp_path / "checkpoints"))
            assert made.watch is not None
            checkpoint.forget_others(str(tmp_path / "best"), made.watch.best_at)
            saved.append(state.step)

        loop.fit(
            state,
            made,
            FIT,
            10,
            World(),
            lambda step, _: None,
            store,
            lambda: state.step == until,
            lambda state: checkpoint.store_best(state, str(tmp_path / "best")),
        )
        return saved

    first = program(watching(values, patience=2))
    assert run(first, loop.start(first, FIT), until=5) == [2, 4, 5, 5]  # each best look is followed by a checkpoint
    best = first.watch.best_at  # type: ignore[union-attr]
    assert best == 4
    second = program(watching(values[2:], patience=2))
    state = loop.start(second, FIT)
    checkpoint.load_newest(state, str(tmp_path / "checkpoints"), warn=True)
    assert (state.step, second.watch.best_at, second.watch.since.item()) == (5, 4, 0)  # type: ignore[union-attr]
    run(second, state)
    assert second.watch.done  # type: ignore[union-attr]
    assert state.step == 8
    checkpoint.load_best(second.module, str(tmp_path / "best"), 4)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000004"]
    (tmp_path / "best/step-00000004/weights.safetensors").write_bytes(b"no")
    with pytest.raises(RosepoError, match="damaged"):
        checkpoint.load_best(second.module, str(tmp_path / "best"), 4)
