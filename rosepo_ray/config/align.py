"""Alignment: which objective, over how many passes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.config.training import PolicyFitSettings


class AlignSettings(PolicyFitSettings):
    objective: Annotated[Any, OBJECTIVES] = Field(default_factory=OBJECTIVES.default)
    """Preference objective."""
    dense: bool = False
    """Whole windows of history + 1 items as one row that holds a pair for each of its positions, what their prompts
    begin with read once: many more pairs for the same compute. `batch` and `micro_batch` then count windows."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the SFT term on the chosen title (mean per token)."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    rounds: int = Field(1, ge=1)
    """Rounds of rejected samples, calibration and alignment: what a round has aligned makes the next one's rejected
    samples and is its reference. `epochs` are those of each round."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""

    def steps(self, units: int) -> int:
        """Optimiser steps over so many pairs, or windows of them; passes join without a gap."""
        return -(-units * self.epochs // self.batch)
