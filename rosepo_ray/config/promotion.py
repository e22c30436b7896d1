"""When a registered model may take the place of the champion."""

from __future__ import annotations

from pydantic import Field

from rosepo_ray.config.section import Section


class PromotionSettings(Section):
    hr_margin: float = Field(0.01, ge=0)
    """HR@1 may fall by this much at most (lower end of the paired interval)."""
    gap_margin: float = Field(5.0, ge=0)
    """The popularity gap |ARP - ARP of the targets| may grow by this much at most (upper end of the interval)."""
