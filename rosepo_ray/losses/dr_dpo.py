"""Dr. DPO: DPO made robust to wrong pairs by the whole batch, in which pairs of high loss count less."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.losses.objective import Need, Objective, Pairs, WithBeta


@OBJECTIVES.kind
class DrDpo(WithBeta):
    """L = -b' log mean exp(-l / b') over the pairs of the global batch, l = softplus(-bD) (Wu et al. 2024,
    arXiv:2407.07880)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})
    type: Literal["dr_dpo"] = "dr_dpo"
    beta_prime: float = Field(1.0, gt=0)
    """How soft: DPO's mean as it grows, the easiest pair alone as it falls to 0."""

    def build(self) -> Objective:
        return DrDpoObjective(self)


class DrDpoObjective(Objective):
    """Dr. DPO (Wu et al. 2024, arXiv:2407.07880): the mean is over all pairs (row, rejected) of the global batch, so a
    pair's weight, softmax(-l / b'), depends on every other. Every row is given the whole loss: their mean is the loss.
    """

    separable: ClassVar[bool] = False

    def forward(self, pairs: Pairs) -> Tensor:
        losses_P = softplus(-self.settings.beta * pairs.margins_BK())[pairs.valid_BR[:, 1:]]
        mean_log = (-losses_P / self.settings.beta_prime).logsumexp(0) - math.log(len(losses_P))
        return (-self.settings.beta_prime * mean_log).expand(len(pairs.row_ids))
