"""An objective outside the package, named by its import path; workers import it as well."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_ray.losses.objective import Need, Objective, ObjectiveSettings, Pairs, given


class ByScores(ObjectiveSettings):
    """A pair counts as far as the oracle's scores speak for it; half where a text has none."""

    needs: ClassVar[frozenset[Need]] = frozenset({"epsilon", "oracle_scores"})
    type: str = "tests.objectives:ByScores"

    def build(self) -> Objective:
        return ByScoresObjective(self)


class ByScoresObjective(Objective):
    def forward(self, pairs: Pairs) -> Tensor:
        scores_BR = given(pairs.oracle_scores_BR, "oracle_scores")
        weight_BK = torch.sigmoid(scores_BR[:, :1] - scores_BR[:, 1:]).nan_to_num(0.5)
        losses_BK = -logsigmoid(pairs.logps_BR[:, :1] - pairs.logps_BR[:, 1:])
        return pairs.rejected_mean_B(weight_BK * losses_BK)
