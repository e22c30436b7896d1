"""The preference oracle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rosepo_ray.config.section import Section
from rosepo_ray.config.training import FitSettings


class SasrecOracle(FitSettings):
    """SASRec (Kang and McAuley 2018, arXiv:1808.09781) with a full-catalogue softmax."""

    type: Literal["sasrec"] = "sasrec"
    hidden: int = Field(64, ge=8)
    """Width."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout, drawn per row."""
    batch: int = Field(128, ge=1)
    """Windows per optimiser step."""
    micro_batch: int = Field(128, ge=1)
    """Windows per forward pass and worker at most."""
    steps: int = Field(600, ge=1)
    """Optimiser steps."""
    folds: Literal[1, 2] = 1
    """2 trains two halves by user and judges each pair by the half that did not train on it."""

    @model_validator(mode="after")
    def _divisible(self) -> SasrecOracle:
        if self.hidden % self.heads:
            raise ValueError(f"oracle.hidden {self.hidden} must be a multiple of oracle.heads {self.heads}")
        return self


class PopularityOracle(Section):
    """Scores an item by log(1 + its training interactions)."""

    type: Literal["popularity"]


class ConstantOracle(Section):
    """The same epsilon for every pair: cDPO; 0 gives DPO. There is nothing to serve or to calibrate."""

    type: Literal["constant"]
    epsilon: float = Field(0.0, ge=0, le=1)
    """The label-smoothing factor."""


OracleSettings = Annotated[SasrecOracle | PopularityOracle | ConstantOracle, Field(discriminator="type")]
