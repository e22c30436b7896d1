"""The conservative objective: label smoothing that is personal to each pair."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from rosepo_ray.losses.margin import at_least_fp32


def conservative(margins_BK: Tensor, epsilon_BK: Tensor, beta: float) -> Tensor:
    """L = (1-e) softplus(-b D) + e softplus(b D), per pair, not reduced.

    RosePO (Liao et al. 2024, arXiv:2410.12519) smooths each pair by its own e; with one constant e this is cDPO
    (Mitchell 2023, "A note on DPO with noisy preferences"), with e = 0 it is DPO, -log sigmoid(b D) (Rafailov et
    al. 2023, arXiv:2305.18290, equation 7). dL/dD = b (sigmoid(b D) - (1-e)), so the optimum is b D* = logit(1-e).

    Args:
        margins_BK: D of :func:`rosepo_ray.losses.margins` [B, K], nats.
        epsilon_BK: probability that the pair is the wrong way round [B, K], in [0, 1].
        beta: strength of the pull to the reference, > 0.

    Returns:
        loss_BK [B, K], fp32 or wider, never negative; finite for every finite margin.
    """
    scaled_BK = beta * at_least_fp32(margins_BK)
    epsilon_BK = epsilon_BK.to(scaled_BK.dtype)
    return (1 - epsilon_BK) * softplus(-scaled_BK) + epsilon_BK * softplus(scaled_BK)
