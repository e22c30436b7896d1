"""What every preference objective must keep; see :class:`ObjectiveContract`."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.errors import RosepoError
from rosepo_ray.losses.objective import Need, Objective, ObjectiveSettings, Pairs
from rosepo_ray.programs.pair_batch import derivatives
from rosepo_ray.training.world import World

FIELD: dict[Need, str] = {
    "reference": "ref_logps_BR",
    "epsilon": "epsilon_BR",
    "oracle_scores": "oracle_scores_BR",
}
"""Where in Pairs stands what an objective needs."""


class ObjectiveContract:
    """Inherit it and set `settings`. The tests give the objective exactly what it declares to need."""

    settings: ObjectiveSettings

    def objective(self) -> Objective:
        return self.settings.build().double()

    def pairs(self) -> Pairs:
        return random_pairs(self.settings)

    def test_one_loss_per_row_finite_with_a_finite_gradient_at_large_margins(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            logps_BR = torch.tensor([[-5000.0, 0.0], [0.0, -5000.0], [-5000.0, -5000.0]], dtype=dtype)
            pairs = rows_of(self.pairs(), [1, 1, 1])  # a row with a single rejected response
            pairs = replace(pairs, ref_logps_BR=None if pairs.ref_logps_BR is None else torch.zeros(3, 2))
            losses_B, by_logp_BR = losses_and_gradient(self.settings.build(), replace(pairs, logps_BR=logps_BR))
            assert losses_B.shape == (3,), f"losses {tuple(losses_B.shape)} of 3 rows"
            assert losses_B.dtype in (torch.float32, torch.float64), f"of {dtype} the losses are {losses_B.dtype}"
            assert torch.isfinite(losses_B).all(), f"{dtype}: {losses_B}"
            assert torch.isfinite(by_logp_BR).all(), f"{dtype}: {by_logp_BR}"

    def test_the_gradient_agrees_with_finite_differences(self) -> None:
        pairs, objective = self.pairs(), self.objective()
        assert torch.autograd.gradcheck(
            lambda logps_BR: objective(replace(pairs, logps_BR=logps_BR)), (pairs.logps_BR.clone().requires_grad_(),)
        )

    def test_the_order_of_rows_does_not_matter(self) -> None:
        pairs, order = self.pairs(), [4, 0, 5, 2, 1, 3]
        losses_B, by_logp_BR = losses_and_gradient(self.objective(), pairs)
        turned_B, by_turned_BR = losses_and_gradient(self.objective(), rows_of(pairs, order))
        assert_equal(turned_B, losses_B[order])
        assert_equal(by_turned_BR, by_logp_BR[order])

    def test_padding_does_not_matter(self) -> None:
        pairs = self.pairs()
        losses_B, by_logp_BR = losses_and_gradient(self.objective(), pairs)
        for filler in (0.0, 0.9, -1000.0):
            padded = filled_up(pairs, 2, filler)
            padded_B, by_padded_BR = losses_and_gradient(self.objective(), padded)
            assert_equal(padded_B, losses_B)
            assert_equal(by_padded_BR[:, :-2], by_logp_BR)
            assert not by_padded_BR[~padded.valid_BR].any(), "a gradient flows to a response that is not there"

    def test_a_separable_loss_depends_on_no_other_row(self) -> None:
        pairs, objective = self.pairs(), self.objective()
        if objective.separable:
            alone = [objective(rows_of(pairs, [row]))[0] for row in range(len(pairs.row_ids))]
            assert_equal(torch.stack(alone), objective(pairs))

    def test_accumulation_changes_neither_losses_nor_gradients(self) -> None:
        """As alignment takes it: micro-batches one by one, or in two passes where it is not separable."""
        pairs = self.pairs()
        losses_B, by_logp_BR = losses_and_gradient(self.objective(), pairs)
        for cuts in ([6], [2, 1, 2, 1]):
            parts_B, by_parts_BR = in_micro_batches(self.objective(), pairs, cuts)
            assert_equal(parts_B, losses_B, 1e-6)
            assert_equal(by_parts_BR, by_logp_BR, 1e-6)

    def test_it_names_what_it_needs_and_was_not_given(self) -> None:
        import pytest

        assert self.settings.needs <= set(get_args(Need))
        for need in self.settings.needs:
            with pytest.raises(RosepoError, match=need):
                self.objective()(changed(self.pairs(), {FIELD[need]: None}))

    def test_its_state_is_in_its_buffers_and_only_observing_changes_it(self) -> None:
        objective, fresh, pairs = self.objective(), self.objective(), self.pairs()
        assert not list(objective.parameters()), "parameters would not be trained; state belongs in buffers"
        for step in range(3):
            objective.observe(figures(self.settings, step))
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        losses_B = objective(pairs)
        for name, value in objective.state_dict().items():
            assert torch.equal(value, before[name]), f"forward changed the buffer {name}"
        fresh.load_state_dict(before)
        assert_equal(fresh(pairs), losses_B, 0.0)

    def test_settings_survive_a_recipe_and_a_pickle(self) -> None:
        assert OBJECTIVES.find(self.settings.type) is type(self.settings), f"{self.settings.type} names another class"
        assert AlignSettings(objective=self.settings.model_dump()).objective == self.settings
        text = AlignSettings(objective=self.settings).model_dump_json()
        assert AlignSettings.model_validate_json(text).objective == self.settings
        again = pickle.loads(pickle.dumps(self.settings))
        assert again == self.settings
        pairs = self.pairs()
        assert_equal(again.build().double()(pairs), self.objective()(pairs), 0.0)


def assert_equal(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def random_pairs(settings: ObjectiveSettings) -> Pairs:
    """Six rows with 3, 1, 2, 3, 1, 2 rejected responses, float64; always the same."""
    generator = torch.Generator().manual_seed(7)

    def normal() -> Tensor:
        return torch.randn(6, 4, generator=generator, dtype=torch.float64)

    logps_BR = 4 * normal() - 20
    epsilon_BR = settings.largest_epsilon * torch.rand(6, 4, generator=generator, dtype=torch.float64)
    epsilon_BR[:, 0] = 0
    scores_BR = normal()
    scores_BR[3, 2] = math.nan  # no item
    known = {"reference": logps_BR + 2 * normal(), "epsilon": epsilon_BR, "oracle_scores": scores_BR}
    return Pairs(
        logps_BR,
        torch.randint(1, 9, (6, 4), generator=generator),
        torch.arange(4) <= torch.tensor([3, 1, 2, 3, 1, 2])[:, None],
        [f"u{row}:5" for row in range(6)],
        **{FIELD[need]: known[need] for need in settings.needs},
    )


def rows_of(pairs: Pairs, rows: Sequence[int]) -> Pairs:
    """These rows, no wider than the widest of them."""
    width = int(pairs.valid_BR[list(rows)].sum(1).max())
    tensors = {name: value[list(rows), :width] for name, value in vars(pairs).items() if isinstance(value, Tensor)}
    return Pairs(row_ids=[pairs.row_ids[row] for row in rows], **tensors)


def filled_up(pairs: Pairs, columns: int, filler: float) -> Pairs:
    """With further columns; `filler` stands wherever nothing is."""
    nothing_BR = torch.cat([~pairs.valid_BR, torch.ones(len(pairs.row_ids), columns, dtype=torch.bool)], 1)

    def wider(value: Tensor) -> Tensor:
        padded_BR = torch.nn.functional.pad(value, (0, columns))
        return padded_BR if value.dtype == torch.bool else padded_BR.masked_fill(nothing_BR, filler)

    return changed(pairs, {name: wider(value) for name, value in vars(pairs).items() if isinstance(value, Tensor)})


def changed(pairs: Pairs, tensors: Mapping[str, Tensor | None]) -> Pairs:
    fields: dict[str, Any] = {**tensors}
    return replace(pairs, **fields)


def losses_and_gradient(objective: Callable[[Pairs], Tensor], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Losses [B], and the derivative [B, R] of their sum by each log-probability."""
    logps_BR = pairs.logps_BR.clone().requires_grad_()
    losses_B = objective(replace(pairs, logps_BR=logps_BR))
    (by_logp_BR,) = torch.autograd.grad(losses_B.sum(), logps_BR)
    return losses_B.detach(), by_logp_BR


def in_micro_batches(objective: Objective, pairs: Pairs, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same, the rows cut into micro-batches of these sizes."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    parts = [rows_of(pairs, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    if objective.separable:
        found = [losses_and_gradient(objective, part) for part in parts]
    else:
        ahead = derivatives(objective, parts, [True] * len(parts), World())
        found = [losses_and_gradient(of_logps(each.by), part) for each, part in zip(ahead, parts, strict=True)]
    width = pairs.logps_BR.shape[1]
    padded = [torch.nn.functional.pad(by_logp_BR, (0, width - by_logp_BR.shape[1])) for _, by_logp_BR in found]
    return torch.cat([losses_B for losses_B, _ in found]), torch.cat(padded)


def of_logps(losses: Callable[[Tensor], Tensor]) -> Callable[[Pairs], Tensor]:
    return lambda pairs: losses(pairs.logps_BR)


def figures(settings: ObjectiveSettings, step: int) -> dict[str, float]:
    """Means as the loop gives them after a step."""
    found = {"loss": 0.7 - 0.1 * step, "chosen_logp": -20.0 + step, "rejected_logp": -21.0 - step}
    found |= {"grad_norm": 1.0, "lr": 1e-4, "count": 32.0, "tokens": 900.0}
    if "reference" in settings.needs:
        found |= {"margin": 0.5 * step, "pair_accuracy": 0.5 + 0.1 * step}
    if "epsilon" in settings.needs:
        found["epsilon"] = 0.2
    return found
