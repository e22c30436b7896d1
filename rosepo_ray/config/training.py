"""One training run: its batches, its optimiser, its checkpoints."""

from __future__ import annotations

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
