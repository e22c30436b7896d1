"""What can give a pair its smoothing factor: recommenders that score items, and tables or constants that do not."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rosepo_ray.config.kinds import ORACLES, Kind
from rosepo_ray.config.section import absolute_folder
from rosepo_ray.config.training import FitSettings


class OracleSettings(Kind):
    """Settings of an oracle."""

    scores: ClassVar[bool] = False
    """Whether it scores items: then it is calibrated, and stands in the evaluation as a recommender of its own."""
    served: ClassVar[bool] = False
    """Whether a Ray Serve app hosts it while alignment asks."""

    @property
    def largest_epsilon(self) -> float:
        """The largest smoothing factor it gives."""
        return 1.0


class ScoringOracle(OracleSettings):
    """What the oracles that score items share."""

    scores: ClassVar[bool] = True
    served: ClassVar[bool] = True
    epsilon_max: float = Field(0.5, ge=0, le=1)
    """Upper bound of the personal smoothing factor."""

    @property
    def largest_epsilon(self) -> float:
        return self.epsilon_max


@ORACLES.kind
class Sasrec(ScoringOracle, FitSettings):
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
    def _divisible(self) -> Sasrec:
        if self.hidden % self.heads:
            raise ValueError(f"oracle.hidden {self.hidden} must be a multiple of oracle.heads {self.heads}")
        return self


@ORACLES.kind
class Popularity(ScoringOracle):
    """Scores an item by log(1 + its training interactions)."""

    type: Literal["popularity"] = "popularity"


@ORACLES.kind
class Constant(OracleSettings):
    """The same epsilon for every pair: cDPO; 0 gives DPO. There is nothing to serve or to calibrate."""

    type: Literal["constant"] = "constant"
    epsilon: float = Field(0.0, ge=0, le=1)
    """The label-smoothing factor."""

    @property
    def largest_epsilon(self) -> float:
        return self.epsilon


@ORACLES.kind
class Replay(OracleSettings):
    """The smoothing factors of an earlier alignment, from its table; nothing is asked."""

    type: Literal["replay"] = "replay"
    folder: str
    """Folder of the alignment stage that left the table `smoothing`."""

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        return absolute_folder(folder)

    @property
    def largest_epsilon(self) -> float:
        return 0.0  # known once the table is read, before the first stage
