"""Supervised fine-tuning, and its continuation as a control."""

from __future__ import annotations

from pydantic import Field

from rosepo_ray.config.section import Section
from rosepo_ray.config.training import PolicyFitSettings


class SftSettings(PolicyFitSettings):
    dense: bool = True
    """Loss on every title of windows of history + 1 items (titles prompt only); else on the target of each example."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of activations dropped in SFT (embeddings, and what each block adds), fixed by hash of (seed, row): for a
    policy from scratch, which else learns its rows by heart. Alignment drops nothing."""
    steps: int = Field(600, ge=1)
    """Optimiser steps."""


class SftLongerSettings(Section):
    enabled: bool = True
    """Continue SFT for as many steps as alignment took: the control that a gain of the method must beat."""
