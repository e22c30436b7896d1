"""Alignment: which objective, over how many passes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rosepo_ray.config.kinds import OBJECTIVES
from rosepo_ray.config.training import FitSettings


class AlignSettings(FitSettings):
    objective: Annotated[Any, OBJECTIVES] = Field(default_factory=OBJECTIVES.default)
    """Preference objective."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the SFT term on the chosen title (mean per token)."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""

    def steps(self, pairs: int) -> int:
        """Optimiser steps over so many pairs; passes join without a gap."""
        return -(-pairs * self.epochs // self.batch)
