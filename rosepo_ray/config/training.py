"""One training run: its batches, its optimiser, its checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rosepo_ray.config.section import Section


class FitSettings(Section):
    """One training run: AdamW, linear warm-up, cosine decay to zero."""

    batch: int = Field(32, ge=1)
    """Rows per optimiser step over all workers; accumulation follows from it."""
    micro_batch: int = Field(32, ge=1)
    """Rows per forward pass and worker at most."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of matrices."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints."""


class ValidationSettings(Section):
    every: int | None = Field(None, ge=1)
    """Steps between two looks at validation rows; null looks at none. The weights of the best look are kept; alignment
    also looks before its first step, so that it never ends below SFT by this measure."""
    examples: int = Field(500, ge=1)
    """Validation rows of a look: the same every time, chosen by hash."""
    metric: Literal["hr@1", "ndcg@10", "loss"] = "hr@1"
    """What makes a look better. HR@1 and NDCG@10 are over the candidates; a loss is better where it is lower."""
    texts: float = Field(0.98, ge=0, le=1)
    """No look counts as better whose share of freely written texts that are items is below this part of the first
    look's; 0 writes no texts."""
    patience: int | None = Field(None, ge=1)
    """End after so many looks without a better one; null goes to the last step."""


class PolicyFitSettings(FitSettings):
    validation: ValidationSettings = ValidationSettings()
    """Looks at validation rows while it trains."""
