"""What a preference objective is: from the log-probabilities of a batch of pairs to one loss per row.

A pair is a row with one chosen and K rejected responses, chosen first, so R = 1 + K; rows with fewer rejected ones are
filled up and `valid_BR` says which count: what stands elsewhere has no effect. An objective declares what it `needs`;
the rest is neither computed, asked nor stored. It sees the batch in one of two ways:

- *separable* (the default): the loss of a row depends on that row alone. Micro-batches come one by one.
- otherwise it sees the whole global batch at once, the rows of all workers, and gives each row its share of the loss:
  the mean over the rows is what is minimised.

State between batches lives in buffers: they are checkpointed, and equal on all workers since `observe` and the whole
batch are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rosepo_ray.config.kinds import OBJECTIVES, Kind
from rosepo_ray.errors import RosepoError

Need = Literal["reference", "epsilon", "oracle_scores"]


@dataclass(frozen=True)
class Pairs:
    """B rows of R responses. A log-probability is the SUM over a title's tokens and its end token, in nats."""

    logps_BR: Tensor
    """Of the policy, with gradient."""
    lengths_BR: Tensor
    """Tokens of each response, its end token included."""
    valid_BR: Tensor
    """Which responses there are; the chosen one always, and at least one more."""
    row_ids: list[str]
    ref_logps_BR: Tensor | None = None
    """Of the reference; for those that need "reference"."""
    epsilon_BR: Tensor | None = None
    """Probability that the pair of chosen and this rejected response is the wrong way round; 0 for the chosen itself.
    For those that need "epsilon"."""
    oracle_scores_BR: Tensor | None = None
    """The oracle's scores of the items; NaN where a response is no item. For those that need "oracle_scores"."""

    def __post_init__(self) -> None:
        shape = self.logps_BR.shape
        others = [self.lengths_BR, self.valid_BR, self.ref_logps_BR, self.epsilon_BR, self.oracle_scores_BR]
        shapes = [tuple(tensor.shape) for tensor in others if tensor is not None]
        if len(shape) != 2 or shape[1] < 2 or len(self.row_ids) != shape[0] or any(s != shape for s in shapes):
            raise RosepoError(
                f"pairs got log-probabilities {tuple(shape)}, {len(self.row_ids)} row ids and tensors {shapes}; all "
                "must be [B, R] with R of 2 or more (broadcasting would hide it)"
            )

    def margins_BK(self) -> Tensor:
        """Delta [B, K] = (log pi(y_w) - log pi_ref(y_w)) - (log pi(y_l) - log pi_ref(y_l)), fp32 or wider: the exponent
        of DPO before beta (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""
        return self.leads_BK(at_least_fp32(self.logps_BR) - at_least_fp32(given(self.ref_logps_BR, "reference")))

    def leads_BK(self, values_BR: Tensor) -> Tensor:
        """By how much the chosen response exceeds each rejected one; 0 where none is, and no gradient from there."""
        return torch.where(self.valid_BR[:, 1:], values_BR[:, :1] - values_BR[:, 1:], 0.0)

    def rejected_mean_B(self, values_BK: Tensor) -> Tensor:
        """The mean over a row's rejected responses."""
        valid_BK = self.valid_BR[:, 1:]
        # Not by multiplication: what stands where nothing is may not be finite.
        return torch.where(valid_BK, values_BK, 0.0).sum(1) / valid_BK.sum(1)


@OBJECTIVES.base
class ObjectiveSettings(Kind):
    """Settings of an objective."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it wants to know of a pair beside the policy's log-probabilities."""
    largest_epsilon: ClassVar[float] = 1.0
    """The largest smoothing factor it can be given."""

    def build(self) -> Objective:
        raise NotImplementedError


class WithBeta(ObjectiveSettings):
    """What the objectives with a reference share."""

    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference."""


class Objective(nn.Module):
    """A preference objective; see the module's text."""

    separable: ClassVar[bool] = True

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @property
    def needs(self) -> frozenset[Need]:
        needs: frozenset[Need] = self.settings.needs
        return needs

    def forward(self, pairs: Pairs) -> Tensor:
        """Loss per row [B], fp32 or wider, finite for finite log-probabilities."""
        raise NotImplementedError

    def observe(self, means: Mapping[str, float]) -> None:
        """After each step, on every worker: the means over the global batch that the run reports."""


def at_least_fp32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become fp32; wider types stay. Differences of summed log-probabilities need the digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def given(tensor: Tensor | None, need: Need) -> Tensor:
    """The tensor that an objective declared to need. Raises RosepoError where it was not declared, or not given."""
    if tensor is None:
        raise RosepoError(f"an objective was not given '{need}': it must be among what it declares to need")
    return tensor
