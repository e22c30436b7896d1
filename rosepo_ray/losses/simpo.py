"""SimPO: the mean log-probability per token as the reward, a target margin, and no reference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.losses.objective import Objective, ObjectiveSettings, Pairs, at_least_fp32


@OBJECTIVES.kind
class Simpo(ObjectiveSettings):
    """L = -log sigmoid(b/|y_w| log pi(y_w) - b/|y_l| log pi(y_l) - gamma) (Meng et al. 2024, arXiv:2405.14734)."""

    type: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    """Scale of the reward."""
    gamma: float = Field(1.0, ge=0)
    """Margin by which the chosen reward should exceed the rejected one."""

    def build(self) -> Objective:
        return SimpoObjective(self)


class SimpoObjective(Objective):
    """SimPO (Meng et al. 2024, arXiv:2405.14734, equation 6), mean over the rejected. |y| counts the end token, as the
    log-probability does. Needs neither reference nor oracle."""

    def forward(self, pairs: Pairs) -> Tensor:
        logps_BR = at_least_fp32(pairs.logps_BR)
        rewards_BR = self.settings.beta * logps_BR / pairs.lengths_BR.clamp_min(1)
        return pairs.rejected_mean_B(softplus(self.settings.gamma - pairs.leads_BK(rewards_BR)))
