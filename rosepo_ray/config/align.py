"""Alignment and its objective."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rosepo_ray.config.section import Section, absolute_folder
from rosepo_ray.config.training import FitSettings

ROBUST_EPSILON = 0.4
"""Largest smoothing factor that the robust objective, which divides by 1-2e, is given."""


class Conservative(Section):
    """L = (1-e) softplus(-bD) + e softplus(bD)."""

    type: Literal["conservative"] = "conservative"


class Robust(Section):
    """L = [(1-e) softplus(-bD) - e softplus(bD)] / (1-2e) (rDPO, Chowdhury et al. 2024, arXiv:2403.00409)."""

    type: Literal["robust"]


ObjectiveSettings = Annotated[Conservative | Robust, Field(discriminator="type")]


class AlignSettings(FitSettings):
    objective: ObjectiveSettings = Conservative()
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference."""
    epsilon_max: float = Field(0.5, ge=0, le=1)
    """Upper bound of the personal smoothing factor."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the SFT term on the chosen title (mean per token)."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    replay: str | None = None
    """Folder of an earlier alignment stage whose smoothing table gives every epsilon; the oracle is not asked."""

    @field_validator("replay")
    @classmethod
    def _absolute(cls, replay: str | None) -> str | None:
        return None if replay is None else absolute_folder(replay)
