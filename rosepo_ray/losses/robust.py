"""The robust objective: an unbiased estimate of the DPO loss under labels that are flipped with probability e."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.errors import RosepoError
from rosepo_ray.losses.objective import Need, Objective, Pairs, WithBeta, given


@OBJECTIVES.kind
class Robust(WithBeta):
    """L = [(1-e) softplus(-bD) - e softplus(bD)] / (1-2e) (rDPO, Chowdhury et al. 2024, arXiv:2403.00409)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference", "epsilon"})
    largest_epsilon: ClassVar[float] = 0.4
    type: Literal["robust"] = "robust"

    def build(self) -> Objective:
        return RobustObjective(self)


class RobustObjective(Objective):
    """L = [(1-e) softplus(-b D) - e softplus(b D)] / (1-2e), mean over the rejected.

    rDPO (Chowdhury et al. 2024, arXiv:2403.00409), with an e per pair. If the label of a pair is flipped with
    probability e, the mean of L over the flips is the DPO loss of the true label. L is unbounded below (no finite
    optimum) and may be negative; near e = 0.5 its variance explodes.
    """

    def forward(self, pairs: Pairs) -> Tensor:
        """Raises RosepoError for an e of 0.5 or more, where the formula divides by zero or turns its sign."""
        scaled_BK = self.settings.beta * pairs.margins_BK()
        epsilon_BK = given(pairs.epsilon_BR, "epsilon")[:, 1:].to(scaled_BK.dtype)
        largest = float(epsilon_BK[pairs.valid_BR[:, 1:]].max())
        if largest >= 0.5:
            raise RosepoError(
                f"the robust objective got epsilon {largest:.4g}, and it divides by 1-2e; "
                f"set oracle.epsilon_max to {Robust.largest_epsilon} or less"
            )
        numerator_BK = (1 - epsilon_BK) * softplus(-scaled_BK) - epsilon_BK * softplus(scaled_BK)
        return pairs.rejected_mean_B(numerator_BK / (1 - 2 * epsilon_BK))
