"""The contract of objectives, kept by every shipped one and by one that is not shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import softplus

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.losses import Conservative, DrDpo, Objective, ObjectiveSettings, Pairs, Robust, Simpo
from rosepo_ray.losses.objective import at_least_fp32, given
from rosepo_ray.testing.objective import ObjectiveContract


class TestConservative(ObjectiveContract):
    settings = Conservative(beta=0.3)


class TestRobust(ObjectiveContract):
    settings = Robust()


class TestSimpo(ObjectiveContract):
    settings = Simpo(gamma=0.5)


class TestDrDpo(ObjectiveContract):
    settings = DrDpo(beta_prime=0.7)


class OracleMargin(ObjectiveSettings):
    """A user's own: the policy's lead should exceed the oracle's by what was usual, on the scale of the batch."""

    needs = frozenset({"oracle_scores"})
    type: str
    rate: float = 0.5

    def build(self) -> Objective:
        return OracleMarginObjective(self)


class OracleMarginObjective(Objective):
    separable = False

    def __init__(self, settings: OracleMargin) -> None:
        super().__init__(settings)
        self.register_buffer("usual", torch.zeros(()))

    def forward(self, pairs: Pairs) -> torch.Tensor:
        scores_BR = given(pairs.oracle_scores_BR, "oracle_scores").nan_to_num()
        gaps_BK = pairs.leads_BK(at_least_fp32(pairs.logps_BR)) - pairs.leads_BK(scores_BR) - self.usual
        valid_BK = pairs.valid_BR[:, 1:]
        return pairs.rejected_mean_B(softplus(-gaps_BK / (1 + gaps_BK[valid_BK].abs().max())))

    def observe(self, means: Mapping[str, float]) -> None:
        self.usual.lerp_(torch.tensor(means["loss"]).to(self.usual), self.settings.rate)


class TestOneThatIsNotShipped(ObjectiveContract):
    settings = OracleMargin(type=f"{__name__}:OracleMargin")


def test_every_shipped_objective_is_held_to_it() -> None:
    held = {type(contract.settings) for contract in ObjectiveContract.__subclasses__()}
    assert set(OBJECTIVES) <= held
