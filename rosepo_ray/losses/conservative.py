"""The conservative objective: label smoothing that is personal to each pair."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.losses.objective import Need, Objective, Pairs, WithBeta, given


@OBJECTIVES.kind
class Conservative(WithBeta):
    """L = (1-e) softplus(-bD) + e softplus(bD)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference", "epsilon"})
    type: Literal["conservative"] = "conservative"

    def build(self) -> Objective:
        return ConservativeObjective(self)


class ConservativeObjective(Objective):
    """L = (1-e) softplus(-b D) + e softplus(b D), mean over the rejected.

    RosePO (Liao et al. 2024, arXiv:2410.12519) smooths each pair by its own e; with one constant e this is cDPO
    (Mitchell 2023, "A note on DPO with noisy preferences"), with e = 0 it is DPO, -log sigmoid(b D) (Rafailov et
    al. 2023, arXiv:2305.18290, equation 7). dL/dD = b (sigmoid(b D) - (1-e)), so the optimum is b D* = logit(1-e).
    Never negative.
    """

    def forward(self, pairs: Pairs) -> Tensor:
        scaled_BK = self.settings.beta * pairs.margins_BK()
        epsilon_BK = given(pairs.epsilon_BR, "epsilon")[:, 1:].to(scaled_BK.dtype)
        return pairs.rejected_mean_B((1 - epsilon_BK) * softplus(-scaled_BK) + epsilon_BK * softplus(scaled_BK))
