"""The robust objective: an unbiased estimate of the DPO loss under labels that are flipped with probability e."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.errors import RosepoError
from rosepo_ray.losses.margin import at_least_fp32


def robust(margins_BK: Tensor, epsilon_BK: Tensor, beta: float) -> Tensor:
    """L = [(1-e) softplus(-b D) - e softplus(b D)] / (1-2e), per pair, not reduced.

    rDPO (Chowdhury et al. 2024, arXiv:2403.00409), with an e per pair. If the label of a pair is
    flipped with probability e, the mean of L over the flips is the DPO loss of the true label. L is unbounded
    below (no finite optimum) and may be negative.

    Args:
        margins_BK: D of :func:`rosepo_ray.losses.margins` [B, K], nats.
        epsilon_BK: flip probability [B, K], in [0, 0.5); near 0.5 the variance explodes, keep it at 0.4 or less.
        beta: strength of the pull to the reference, > 0.

    Returns:
        loss_BK [B, K], fp32 or wider; finite for every finite margin.

    Raises:
        RosepoError: an e of 0.5 or more, where the formula divides by zero or turns its sign.
    """
    scaled_BK = beta * at_least_fp32(margins_BK)
    epsilon_BK = epsilon_BK.to(scaled_BK.dtype)
    if epsilon_BK.numel() and float(epsilon_BK.max()) >= 0.5:
        raise RosepoError(
            f"the robust objective got epsilon {float(epsilon_BK.max()):.4g}, and it divides by 1-2e; "
            "set align.epsilon_max to 0.4 or less"
        )
    numerator_BK = (1 - epsilon_BK) * softplus(-scaled_BK) - epsilon_BK * softplus(scaled_BK)
    return numerator_BK / (1 - 2 * epsilon_BK)
