"""Micro-batches of ragged pairs, and the two passes of an objective that sees the whole batch, by hand."""

from __future__ import annotations

import math
from typing import Any

import torch

from rosepo_ray.losses import Objective, ObjectiveSettings, Pairs
from rosepo_ray.policy.engine.layout import PackedBatch
from rosepo_ray.policy.segments import EncodedPrompt
from rosepo_ray.programs.pair_batch import PairBatch, derivatives, pair_batch
from rosepo_ray.training.world import World
from tests.rows import pack

ROWS: list[dict[str, Any]] = [
    {
        "example_id": "u1:4",
        "rejected_text": ["b", "c"],
        "ref_chosen_logp": -1.0,
        "ref_rejected_logps": [-2.0, -3.0],
        "epsilon": [0.125, 0.25],
        "oracle_scores": [5.0, math.nan, 6.0],
    },
    {
        "example_id": "u2:4",
        "rejected_text": ["d"],
        "ref_chosen_logp": -4.0,
        "ref_rejected_logps": [-5.0],
        "epsilon": [0.5],
        "oracle_scores": [7.0, 8.0],
    },
]


def packed() -> PackedBatch:
    """Responses of 2, 1 and 3 tokens, and of 4 and 2."""
    return pack(
        [EncodedPrompt([1]), EncodedPrompt([1, 1])], [[[5, 0], [0], [6, 7, 0]], [[5, 6, 7, 0], [8, 0]]], pad_id=0
    )


def batch(*needs: Any, real: bool = True) -> PairBatch:
    return pair_batch(ROWS, packed(), set(needs), real, fresh=False)


def test_ragged_rows_are_filled_up() -> None:
    pairs = batch("reference", "epsilon", "oracle_scores").pairs(torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0]))
    assert pairs.row_ids == ["u1:4", "u2:4"]
    assert pairs.valid_BR.tolist() == [[True, True, True], [True, True, False]]
    assert pairs.logps_BR.tolist() == [[-1, -2, -3], [-4, -5, 0]]
    assert pairs.lengths_BR.tolist() == [[2, 1, 3], [4, 2, 0]]
    assert pairs.ref_logps_BR is not None
    assert pairs.ref_logps_BR.tolist() == [[-1, -2, -3], [-4, -5, 0]]
    assert pairs.epsilon_BR is not None
    assert pairs.epsilon_BR.tolist() == [[0, 0.125, 0.25], [0, 0.5, 0]]
    assert pairs.oracle_scores_BR is not None
    assert pairs.oracle_scores_BR.nan_to_num(-9).tolist() == [[5, -9, 6], [7, 8, 0]]


def test_only_what_is_needed_is_read() -> None:
    bare = batch()
    assert (bare.ref_logps_BR, bare.epsilon_BR, bare.oracle_scores_BR) == (None, None, None)
    assert batch("epsilon").ref_logps_BR is None


def test_rows_that_only_keep_a_rank_in_step_do_not_count() -> None:
    assert batch().count == 2
    assert batch(real=False).count == 0


class LogMean(ObjectiveSettings):
    type: str = "log_mean"

    def build(self) -> Objective:
        return LogMeanObjective(self)


class LogMeanObjective(Objective):
    """ln of the mean of exp(rejected - chosen) over all pairs, for each row."""

    separable = False

    def forward(self, pairs: Pairs) -> torch.Tensor:
        leads_BK = pairs.leads_BK(pairs.logps_BR)
        return (-leads_BK[pairs.valid_BR[:, 1:]]).exp().mean().log().expand(len(pairs.row_ids))


def one_pair(name: str, lead: float) -> Pairs:
    return Pairs(torch.tensor([[lead, 0.0]]), torch.ones(1, 2), torch.ones(1, 2).bool(), [name])


def test_two_passes_by_hand() -> None:
    # Leads ln 1 and -ln 3: exp(-lead) is 1 and 3, their mean 2, and each of both rows has the loss ln 2. A pair's share
    # is 1/4 and 3/4; the sum of the rows' losses falls by twice that with the chosen and rises so with the rejected.
    own = [one_pair("a", 0.0), one_pair("ghost", 9.0), one_pair("b", -math.log(3))]
    first, ghost, second = derivatives(LogMean().build(), own, [True, False, True], World())
    torch.testing.assert_close(first.losses_B, torch.tensor([math.log(2)]))
    torch.testing.assert_close(second.losses_B, torch.tensor([math.log(2)]))
    torch.testing.assert_close(first.by_logp_BR, torch.tensor([[-0.5, 0.5]]))
    torch.testing.assert_close(second.by_logp_BR, torch.tensor([[-1.5, 1.5]]))
    assert not ghost.losses_B.any()
    assert not ghost.by_logp_BR.any()


def test_losses_and_gradient_come_from_the_first_pass() -> None:
    (only,) = derivatives(LogMean().build(), [one_pair("a", -math.log(3))], [True], World())
    logps_BR = torch.tensor([[2.0, 5.0]], requires_grad=True)
    losses_B = only.by(logps_BR)
    losses_B.sum().backward()
    torch.testing.assert_close(losses_B.detach(), torch.tensor([math.log(3)]))
    torch.testing.assert_close(logps_BR.grad, torch.tensor([[-1.0, 1.0]]))
