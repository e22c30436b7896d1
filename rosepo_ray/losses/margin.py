"""The quantity that every preference objective pushes: how far the policy moved apart chosen and rejected."""

from __future__ import annotations

import torch
from torch import Tensor

from rosepo_ray.errors import RosepoError


def at_least_fp32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become fp32; wider types stay. Differences of summed log-probabilities need the digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def margins(
    chosen_logps_B: Tensor, rejected_logps_BK: Tensor, ref_chosen_logps_B: Tensor, ref_rejected_logps_BK: Tensor
) -> Tensor:
    """Delta = [log pi(y_w|x) - log pi_ref(y_w|x)] - [log pi(y_l|x) - log pi_ref(y_l|x)], in nats.

    The exponent of Rafailov et al. 2023 (DPO, arXiv:2305.18290, equation 7) before the factor beta. Each
    log-probability is the SUM over the tokens of a title and its end token.

    Args:
        chosen_logps_B: policy on the chosen item [B].
        rejected_logps_BK: policy on the K rejected items [B, K].
        ref_chosen_logps_B: reference on the chosen item [B].
        ref_rejected_logps_BK: reference on the rejected items [B, K].

    Returns:
        margins_BK [B, K], fp32 or wider; zero where the policy is the reference.

    Raises:
        RosepoError: the shapes do not belong together (broadcasting would hide it).
    """
    batch, rejected = chosen_logps_B.shape, rejected_logps_BK.shape
    if (
        len(batch) != 1
        or len(rejected) != 2
        or rejected[:1] != batch
        or ref_chosen_logps_B.shape != batch
        or ref_rejected_logps_BK.shape != rejected
    ):
        raise RosepoError(
            f"margins got chosen {tuple(batch)}, rejected {tuple(rejected)}, reference chosen "
            f"{tuple(ref_chosen_logps_B.shape)} and reference rejected {tuple(ref_rejected_logps_BK.shape)}; "
            "they must be [B], [B, K], [B] and [B, K]"
        )
    chosen_B = at_least_fp32(chosen_logps_B) - at_least_fp32(ref_chosen_logps_B)
    rejected_BK = at_least_fp32(rejected_logps_BK) - at_least_fp32(ref_rejected_logps_BK)
    return chosen_B[:, None] - rejected_BK
