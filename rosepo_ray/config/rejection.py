"""How many rejected items are made, and by which strategy."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.config.section import Section


class RejectionSettings(Section):
    strategy: Annotated[Any, STRATEGIES] = Field(default_factory=STRATEGIES.default)
    """Which item stands as the rejected one."""
    k: int = Field(1, ge=1)
    """Rejected items per example (distinct)."""
    examples: int | None = Field(None, ge=1)
    """Training examples turned into pairs, chosen by hash; null takes all."""
    validation_examples: int = Field(1000, ge=1)
    """Validation examples turned into pairs, for T and the oracle's calibration."""
