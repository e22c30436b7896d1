"""Alignment in this process and in two: what it learns depends on neither micro-batches nor workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

from rosepo_ray.catalogue.requests import Request, Requests
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.errors import Refused
from rosepo_ray.losses import Objective, Pairs
from rosepo_ray.losses.objective import WithBeta
from rosepo_ray.policy import scoring, store
from rosepo_ray.policy.model import Policy
from rosepo_ray.programs.align import AlignProgram
from rosepo_ray.programs.pair_batch import joined
from rosepo_ray.training import checkpoint, loop
from rosepo_ray.training.world import World

TITLES = [f"The {a} {b}" for a in ("red", "blue", "green", "iron") for b in ("house", "garden", "window", "street")]
TITLE_OF = {f"i{n}": title for n, title in enumerate(TITLES)}
ROWS, BATCH = 11, 5  # three steps, of 5, 5 and 1 row: at the last one of two workers has none
STEPS = 3


class Usual(WithBeta):
    """A user's own objective: the margin should exceed what was usual until now."""

    needs = frozenset({"reference", "oracle_scores"})
    type: str
    rate: float = 0.5

    def build(self) -> Objective:
        return UsualObjective(self)


class UsualObjective(Objective):
    def __init__(self, settings: Usual) -> None:
        super().__init__(settings)
        self.register_buffer("usual", torch.zeros((), dtype=torch.float64))

    def forward(self, pairs: Pairs) -> torch.Tensor:
        wanted_BK = pairs.leads_BK(pairs.oracle_scores_BR.nan_to_num()) + self.usual
        return pairs.rejected_mean_B(softplus(wanted_BK - self.settings.beta * pairs.margins_BK()))

    def observe(self, means: Mapping[str, float]) -> None:
        self.usual += self.settings.rate * (means["margin"] - self.usual)


OWN = {"type": f"{__name__}:Usual", "beta": 0.5, "rate": 0.5}
OBJECTIVES = [{"type": "dr_dpo", "beta": 0.5, "beta_prime": 0.5}, {"type": "simpo"}, {"type": "conservative"}, OWN]
NAMES = ["dr_dpo", "simpo", "conservative", "a user's own"]


def make_policy() -> Policy:
    settings = ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280)
    policy = store.build(settings, PromptSettings(), TITLES, [1] * len(TITLES), seed=1)
    policy.model.double()
    return policy


def make_rows(policy: Policy) -> dict[str, dict[str, Any]]:
    """As alignment's stream gives them: one to three rejected, some not items of the catalogue."""
    rows = {}
    for n in range(ROWS):
        draw = random.Random(n)
        items = draw.sample(list(TITLE_OF), 7)
        rejected = [TITLE_OF[item] for item in items[4 : 5 + n % 3]]
        rejected[-1] += " again" if n % 2 else ""
        row = {"example_id": f"u{n}:4", "history": items[:3], "chosen": items[3], "candidates": items}
        row |= {"rejected_text": rejected, "epsilon": [draw.uniform(0, 0.5) for _ in rejected]}
        row["oracle_scores"] = [draw.gauss(0, 1), *(float("nan") if "again" in text else 0.1 for text in rejected)]
        requests = [Request([TITLE_OF[item] for item in items[:3]], [TITLE_OF[items[3]], *rejected])]
        row["ref_chosen_logp"], *row["ref_rejected_logps"] = scoring.score(policy, requests, 1, 1000)[0].tolist()
        rows[row["example_id"]] = row
    return rows


COLUMNS = {
    "reference": {"ref_chosen_logp", "ref_rejected_logps"},
    "epsilon": {"epsilon"},
    "oracle_scores": {"oracle_scores"},
}
"""What the table's rows hold of what an objective may need."""


def make_program(
    objective: dict[str, Any],
    micro_batch: int = BATCH,
    world: World | None = None,
    change: Callable[[dict[str, Any]], None] = lambda row: None,
) -> AlignProgram:
    """Its rows have no column that the objective does not need."""
    align = AlignSettings(
        objective=objective, batch=BATCH, micro_batch=micro_batch, lr=1e-2, sft_weight=0.1, checkpoint_every=2
    )
    policy = make_policy()
    rows = make_rows(policy)
    for row in rows.values():
        change(row)
        for need in COLUMNS.keys() - align.objective.needs:
            for column in COLUMNS[need]:
                del row[column]
    return AlignProgram(
        policy,
        Requests(TITLE_OF),
        [[row] for row in rows],
        lambda ids: (rows[i] for i in ids),
        align,
        3,
        world or World(),
    )


@dataclass
class Seen:
    """What a training run did."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    """Of all weights, at each step."""
    kept: dict[str, torch.Tensor] = field(default_factory=dict)


def fit(program: AlignProgram, state: loop.State | None = None, save: Any = lambda state: None) -> Seen:
    seen, weights = Seen(), list(program.module.parameters())
    state = state or loop.start(program, program.align)
    state.optimiser.register_step_pre_hook(
        lambda *_: seen.gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    )
    loop.fit(state, program, program.align, STEPS, program.world, lambda _, m: seen.metrics.append(m), save)
    seen.kept = program.state.state_dict()
    return seen


def assert_same(one: Seen, other: Seen) -> None:
    assert len(one.gradients) == len(other.gradients) == STEPS
    torch.testing.assert_close(one.gradients, other.gradients, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one.kept, other.kept, rtol=1e-6, atol=1e-9)
    figures = one.metrics[0].keys() - {"wait_share", "tokens_per_second", "step_seconds"}
    for first, second in zip(one.metrics, other.metrics, strict=True):
        for name in figures:
            assert first[name] == pytest.approx(second[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_accumulation_changes_neither_losses_nor_gradients(objective: dict[str, Any]) -> None:
    whole = fit(make_program(objective))
    assert_same(whole, fit(make_program(objective, micro_batch=1)))
    assert_same(whole, fit(make_program(objective, micro_batch=2)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_the_gradient_is_that_of_the_whole_batch(objective: dict[str, Any]) -> None:
    """Written down without accumulation: the mean of the objective over the batch, and the SFT term."""
    program = make_program(objective, micro_batch=2)
    micros = next(program.batches(0))
    assert len(micros) > 1
    pairs = joined([micro.pairs(program.module(micro.inputs)) for micro in micros])
    sft = -0.1 * (pairs.logps_BR[:, 0] / pairs.lengths_BR[:, 0]).mean()
    weights = list(program.module.parameters())
    gradients = torch.autograd.grad(program.objective(pairs).mean() + sft, weights)
    wanted = torch.cat([gradient.flatten() for gradient in gradients])
    seen = fit(program)
    torch.testing.assert_close(seen.gradients[0] * max(1.0, seen.metrics[0]["grad_norm"]), wanted, rtol=1e-5, atol=1e-9)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    for number, objective in enumerate(OBJECTIVES):
        seen = fit(make_program(objective, micro_batch=2, world=World(rank, 2)))
        torch.save(seen, folder / f"{number}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_change_neither_losses_nor_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (tmp_path,), nprocs=2)
    for number, objective in enumerate(OBJECTIVES):
        alone = fit(make_program(objective))
        for rank in range(2):
            assert_same(alone, torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=False))


def test_what_an_objective_keeps_resumes_exactly(tmp_path: Path) -> None:
    quiet = make_program(OWN)
    whole = fit(quiet, save=lambda state: checkpoint.save(state, tmp_path / str(state.step)))
    fresh = make_program(OWN)
    state = loop.start(fresh, fresh.align)
    checkpoint.load(state, tmp_path / "2")
    assert state.step == 2
    assert fresh.objective.usual not in (0, quiet.objective.usual)
    rest = fit(fresh, state)
    assert torch.equal(rest.gradients[0], whole.gradients[2])
    assert rest.metrics[0]["loss"] == whole.metrics[2]["loss"]
    assert torch.equal(fresh.objective.usual, quiet.objective.usual)
    for name, weight in checkpoint.trainable(quiet.module).items():
        assert torch.equal(checkpoint.trainable(fresh.module)[name], weight), name


def test_an_objective_observes_the_means_of_the_global_batch() -> None:
    program = make_program(OWN, micro_batch=2)
    usual = 0.0
    for metrics in fit(program).metrics:
        usual += 0.5 * (metrics["margin"] - usual)
    assert program.objective.usual.item() == pytest.approx(usual, rel=1e-12)


def make_dense(objective: dict[str, Any], together: bool, micro_batch: int = BATCH, seed: int = 1) -> AlignProgram:
    """Pairs of windows of one to four positions: their rows together, or each by itself in batches as large."""
    policy, rows, units = make_policy(), {}, []
    for n in range(ROWS):
        draw = random.Random(n)
        items = draw.sample(list(TITLE_OF), 7)
        units.append([f"u{n}:{at}" for at in range(1, 2 + n % 4)])
        for at, name in enumerate(units[-1], 1):
            rejected = [TITLE_OF[item] for item in draw.sample(items[at + 1 :], 1 + (n + at) % 2)]
            row = {"example_id": name, "history": items[:at], "chosen": items[at], "candidates": items}
            row |= {"rejected_text": rejected, "epsilon": [draw.uniform(0, 0.5) for _ in rejected]}
            row["oracle_scores"] = [draw.gauss(0, 1) for _ in ("chosen", *rejected)]
            request = Requests(TITLE_OF).of(items[:at], None, [TITLE_OF[items[at]], *rejected])
            row["ref_chosen_logp"], *row["ref_rejected_logps"] = scoring.score(policy, [request], 1, 1000)[0].tolist()
            rows[name] = row
    batch = ROWS if together else len(rows)
    align = AlignSettings(objective=objective, batch=batch, micro_batch=micro_batch, lr=1e-2, sft_weight=0.1)
    chosen = units if together else [[name] for unit in units for name in unit]
    stream = lambda ids: (rows[name] for name in ids)  # noqa: E731
    return AlignProgram(policy, Requests(TITLE_OF), chosen, stream, align, seed, World())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_whole_windows_in_one_row_change_neither_loss_nor_gradient(objective: dict[str, Any]) -> None:
    """One step over all pairs: by windows, by windows with accumulation, and pair by pair."""
    seen = []
    for program in (make_dense(objective, True), make_dense(objective, True, 3), make_dense(objective, False)):
        found, weights = Seen(), list(program.module.parameters())
        state = loop.start(program, program.align)
        state.optimiser.register_step_pre_hook(
            lambda *_, f=found, w=weights: f.gradients.append(torch.cat([weight.grad.flatten() for weight in w]))
        )
        loop.fit(state, program, program.align, 1, World(), lambda _, m, f=found: f.metrics.append(m), lambda _: None)
        seen.append(found)
    for other in seen[1:]:
        torch.testing.assert_close(seen[0].gradients, other.gradients, rtol=1e-6, atol=1e-9)
        for name in seen[0].metrics[0].keys() - {"wait_share", "tokens_per_second", "step_seconds"}:
            assert seen[0].metrics[0][name] == pytest.approx(other.metrics[0][name], rel=1e-6, abs=1e-9), name


def test_windows_go_through_in_fewer_columns() -> None:
    dense, apart = (
        sum(micro.inputs.tokens for micro in next(make_dense(OBJECTIVES[2], together).batches(0)))
        for together in (True, False)
    )
    assert dense < 0.65 * apart  # short windows here


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_it_lowers_the_loss_over_all_pairs(objective: dict[str, Any]) -> None:
    program = make_program(objective)

    def loss() -> float:
        with torch.no_grad():
            pairs = [micro.pairs(program.module(micro.inputs)) for step in program.batches(0) for micro in step]
            return program.align.objective.build()(joined(pairs)).mean().item()

    before = loss()
    fit(program)
    assert loss() < before


@pytest.mark.parametrize("objective", [OBJECTIVES[0], OBJECTIVES[2]], ids=["dr_dpo", "conservative"])
def test_pairs_of_another_policy_are_refused_and_named(objective: dict[str, Any]) -> None:
    def change(row: dict[str, Any]) -> None:
        if row["example_id"] == "u3:4":
            row["ref_rejected_logps"][0] += 0.25

    program = make_program(objective, change=change)
    program.align = program.align.model_copy(update={"batch": ROWS})
    with pytest.raises(Refused, match=r"u3:4 .* by up to 0\.25"):
        fit(program)
