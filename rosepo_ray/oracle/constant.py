"""The same smoothing factor for every pair: conservative DPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.oracle.answers import Answer
from rosepo_ray.oracle.protocol import Judge, OracleSettings, Pairs


@ORACLES.kind
class Constant(OracleSettings):
    """The same epsilon for every pair: cDPO; 0 gives DPO. There is nothing to serve or to calibrate."""

    type: Literal["constant"] = "constant"
    epsilon: float = Field(0.0, ge=0, le=1)
    """The label-smoothing factor."""

    @property
    def largest_epsilon(self) -> float:
        return self.epsilon

    def epsilon_of(self, pairs: Pairs, judge: Judge | None) -> dict[str, Answer]:
        version = f"constant:{self.epsilon:g}"
        return {
            row["example_id"]: Answer(row["rejected"], [self.epsilon] * len(row["rejected"]), version) for row in pairs
        }
