"""When a registered model may take the place of the champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from rosepo_ray.config.section import Section

_OWN = {"hr@1": "hr_margin", "popularity_gap_abs": "gap_margin", "catalogue_ratio": "writing_margin"}


class PromotionSettings(Section):
    hr_margin: float = Field(0.01, ge=0)
    """HR@1 may fall by this much at most (lower end of the paired interval)."""
    gap_margin: float = Field(5.0, ge=0)
    """The popularity gap |ARP - ARP of the targets| may grow by this much at most (upper end of the interval)."""
    writing_margin: float = Field(0.02, ge=0)
    """The share of freely written texts that name an item may fall by this much at most (lower end); judged where both
    models were evaluated with `evaluation.generate`."""
    margins: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Further gates: a metric of rankings (by name, or module:NAME) may become worse by this much at most, for example
    `{ndcg@10: 0.01}`."""

    @field_validator("margins")
    @classmethod
    def _others(cls, margins: dict[str, float]) -> dict[str, float]:
        for metric, setting in _OWN.items():
            if metric in margins:
                raise ValueError(f"margins names {metric}, whose margin is promotion.{setting}; set that")
        return margins
