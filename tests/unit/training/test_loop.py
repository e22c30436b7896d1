"""The loop: gradients of the global mean, schedules, resuming, the guard against non-finite losses."""

import copy
import math
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.training import checkpoint, loop
from rosepo_ray.training.optimiser import build_optimiser, learning_rate
from rosepo_ray.training.program import MicroBatch, Plain
from rosepo_ray.training.world import World

FIT = FitSettings(batch=4, micro_batch=4, lr=0.1, warmup=0.2, checkpoint_every=3, weight_decay=0.1)


class Line(nn.Module):
    """y = w . x, so that every gradient is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        return (x_BF @ self.weight.T + self.bias)[:, 0]


def squared(outputs: torch.Tensor, micro: MicroBatch):
    return (outputs**2).sum() / 2, {"output": float(outputs.detach().sum())}


def rows_at(step: int) -> torch.Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(step))


def batches(start: int, size: int):
    step = start
    while True:
        rows = rows_at(step)
        yield [MicroBatch(part, len(part), [f"row{step}"] * len(part), len(part)) for part in rows.split(size)]
        step += 1


class Squares(Plain):
    """Trains a line towards zero, on the rows of each step or on those of `supply`."""

    def __init__(self, module: nn.Module, size: int = 4, supply=None, loss=squared):
        super().__init__()
        self.module, self.size, self.supply, self.loss = module, size, supply, loss

    def batches(self, start: int):
        return batches(start, self.size) if self.supply is None else iter(self.supply)


def start(module: nn.Module) -> loop.State:
    return loop.start(Squares(module), FIT)


def train(module: nn.Module, steps: int, size: int = 4, state: loop.State | None = None, saved=None):
    state = state or start(module)
    seen: list[dict[str, float]] = []
    loop.fit(
        state,
        Squares(module, size),
        FIT,
        steps,
        World(),
        lambda step, metrics: seen.append({"step": step, **metrics}),
        saved or (lambda state: None),
    )
    return seen


def test_one_step_has_the_gradient_of_the_mean():
    module = Line()
    gradients = {}
    module.weight.register_hook(lambda g: gradients.setdefault("weight", g.clone()))
    metrics = train(module, 1)[0]
    x = rows_at(0)
    out = x @ torch.tensor([1.0, -2.0])
    assert torch.allclose(gradients["weight"][0], (out[:, None] * x).mean(0), atol=1e-6)
    assert metrics["loss"] == pytest.approx(float((out**2).mean() / 2), rel=1e-6)
    assert metrics["output"] == pytest.approx(float(out.mean()), rel=1e-5)
    assert metrics["count"] == 4


@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_changes_nothing(size: int):
    whole, parts = Line(), Line()
    first, second = train(whole, 10), train(parts, 10, size)
    assert torch.allclose(whole.weight, parts.weight, atol=1e-6)
    for a, b in zip(first, second, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


def test_rows_of_count_zero_have_no_weight():
    plain, padded = Line(), Line()
    ghost = MicroBatch(torch.full((1, 2), 9.0), 0, ["ghost"])
    train(plain, 1)
    program = Squares(padded, supply=[[*next(batches(0, 4)), ghost]])
    loop.fit(start(padded), program, FIT, 1, World(), lambda s, m: None, lambda s: None)
    assert torch.equal(plain.weight, padded.weight)


def test_resuming_from_a_checkpoint_continues_exactly(tmp_path: Path):
    quiet, killed = Line(), Line()
    whole = train(quiet, 8)

    def save(state: loop.State) -> None:
        checkpoint.save(state, tmp_path / str(state.step))

    state = start(killed)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(state, Squares(killed), FIT, 8, World(), _interrupt_at(5), save)
    assert [p.name for p in tmp_path.iterdir()] == ["3"]
    fresh = Line()
    resumed = start(fresh)
    checkpoint.load(resumed, tmp_path / "3")
    assert resumed.step == 3
    rest = train(fresh, 8, state=resumed)
    assert torch.equal(quiet.weight, fresh.weight)
    assert [m["loss"] for m in rest] == [m["loss"] for m in whole[3:]]


def _interrupt_at(step: int):
    def on_step(number: int, metrics: dict[str, float]) -> None:
        if number == step:
            raise KeyboardInterrupt

    return on_step


def test_a_loss_that_is_not_finite_names_the_rows_and_steps_nothing():
    module = Line()
    before = copy.deepcopy(module.state_dict())
    bad = MicroBatch(torch.tensor([[math.inf, 1.0]]), 1, ["u3:7"])
    good = MicroBatch(torch.ones(1, 2), 1, ["u1:1"])
    with pytest.raises(RosepoError, match="u3:7") as caught:
        loop.fit(
            start(module), Squares(module, supply=[[good, bad]]), FIT, 1, World(), lambda s, m: None, lambda s: None
        )
    assert "u1:1" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_the_next_batches_are_made_beside_the_step_and_in_order():
    """Each is asked for before the step on the one before is over, none beyond the last step, by one thread."""
    made, makers, done = [threading.Event() for _ in range(7)], set(), []

    def watched():
        for number, micros in enumerate(batches(0, 2)):
            makers.add(threading.current_thread())
            made[number].set()
            yield micros

    def loss(outputs: torch.Tensor, micro: MicroBatch):
        if len(done) < 4:
            assert made[len(done) + 1].wait(10), "nothing is prepared while the step computes"
        return squared(outputs, micro)

    before, plain, module = threading.active_count(), Line(), Line()
    program = Squares(module, supply=watched(), loss=loss)
    loop.fit(start(module), program, FIT, 5, World(), lambda step, m: done.append(step), lambda state: None)
    train(plain, 5, 2)
    assert torch.equal(plain.weight, module.weight)
    assert [event.is_set() for event in made] == [True] * 5 + [False] * 2
    assert len(makers) == 1
    assert makers.isdisjoint({threading.current_thread()})
    assert threading.active_count() == before


def test_what_the_batches_raise_ends_the_loop_at_its_step():
    def broken():
        yield from (next(batches(0, 4)), next(batches(1, 4)))
        raise RosepoError("the stream broke")

    before, steps, module = threading.active_count(), [], Line()
    program = Squares(module, supply=broken())
    with pytest.raises(RosepoError, match=r"^the stream broke$"):
        loop.fit(start(module), program, FIT, 5, World(), lambda s, m: steps.append(s), lambda s: None)
    assert steps == [1, 2]
    assert threading.active_count() == before


def test_learning_rate_by_hand():
    # 10 steps, 2 of warm-up: 0.05, 0.1, then 0.1 * (1 + cos(pi * (s - 2) / 8)) / 2.
    rates = [learning_rate(FIT, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[6] == pytest.approx(0.05)
    assert rates[9] == pytest.approx(0.1 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_only_matrices_decay():
    groups = build_optimiser(Line(), FIT).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.1, [2]), (0.0, [1])]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    checkpoint.save(start(Line()), tmp_path)
    with pytest.raises(RosepoError, match="another model"):
        checkpoint.load(start(nn.Linear(2, 1, bias=False)), tmp_path)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path):
    checkpoint.save(start(Line()), tmp_path)
    other = start(Line())
    other.kept.register_buffer("usual", torch.zeros(()))
    with pytest.raises(RosepoError, match=r"\['usual'\].*start anew"):
        checkpoint.load(other, tmp_path)


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trained_to(step: int) -> loop.State:
    state = start(Line())
    train(state.module, step, state=state)
    return state


def test_the_newest_two_checkpoints_are_kept_and_the_newest_is_loaded(tmp_path: Path):
    for step in (3, 6, 9):
        state = trained_to(step)
        checkpoint.store(state, str(tmp_path))
    assert stored(tmp_path) == ["step-00000006", "step-00000009"]
    fresh = start(Line())
    checkpoint.load_newest(fresh, str(tmp_path), warn=True)
    assert fresh.step == 9
    assert torch.equal(fresh.module.weight, state.module.weight)


def test_nothing_happens_without_a_checkpoint(tmp_path: Path):
    fresh = start(Line())
    checkpoint.load_newest(fresh, str(tmp_path / "none"), warn=True)
    assert fresh.step == 0


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "state.safetensors", "optimiser.pt", "position.json", "_done.json"]
)
@pytest.mark.parametrize("how", ["cut short", "removed", "one bit changed"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    name: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for step in (3, 6):
        checkpoint.store(trained_to(step), str(tmp_path))
    file = tmp_path / "step-00000006" / name
    content = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        at = content.index(b'"sha256": "') + 11 if name == "_done.json" else len(content) // 2
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        file.write_bytes(content[: len(content) // 2] if how == "cut short" else flipped)
    fresh = start(Line())
    checkpoint.load_newest(fresh, str(tmp_path), warn=True)
    assert fresh.step == 3
    assert torch.equal(fresh.module.weight, trained_to(3).module.weight)
    assert "step-00000006 is damaged" in caplog.text
    checkpoint.store(trained_to(6), str(tmp_path))  # and the next one takes its place
    checkpoint.load_newest(fresh, str(tmp_path), warn=True)
    assert fresh.step == 6


def test_a_request_to_stop_ends_after_a_checkpoint_and_the_rest_follows_exactly():
    whole, part = Line(), Line()
    train(whole, 8)
    state, kept, asked = start(part), [], iter([False] * 5 + [True])

    def save(state: loop.State) -> None:
        kept.append(state.step)

    loop.fit(state, Squares(part), FIT, 8, World(), lambda step, m: None, save, lambda: next(asked))
    assert (state.step, kept) == (5, [3, 5])
    train(part, 8, state=state)
    assert torch.equal(part.weight, whole.weight)


def test_void_and_later_checkpoints_do_not_count_as_kept_ones(tmp_path: Path):
    for step in (3, 6):
        checkpoint.store(trained_to(step), str(tmp_path))
    (tmp_path / "step-00000007").mkdir()
    (tmp_path / "step-00000007" / "optimiser.pt").write_bytes(b"cut short")
    checkpoint.store(trained_to(9), str(tmp_path))
    assert stored(tmp_path) == ["step-00000006", "step-00000009"]
    (tmp_path / "step-00000009" / "weights.safetensors").write_bytes(b"")
    checkpoint.store(trained_to(8), str(tmp_path))  # went on from 6, since 9 was damaged
    assert stored(tmp_path) == ["step-00000006", "step-00000008"]
