"""Which rows are judged, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rosepo_ray.config.section import Section


class EvaluationSettings(Section):
    split: Literal["test", "validation"] = "test"
    """Which examples are judged. Choose hyper-parameters on validation."""
    examples: int | None = Field(None, ge=1)
    """Judge only this many examples of the split, chosen by hash of (data.seed, example); null judges all of them."""
    generate: bool = True
    """Let each policy write a title freely as well."""
    catalogue_examples: int | None = Field(1000, ge=0)
    """Rank the whole catalogue for this many of the judged examples, chosen by hash; null for all of them, 0 for none.
    The ranking is exact, to the tenth place."""
    beams: int = Field(0, ge=0)
    """For the same examples let each policy write a title under the constraint that it is one of the catalogue, by
    beam search of this width (1 is greedy); 0 does without."""
    encoder: str = "tfidf"
    """Text encoder that measures semantic over-selection: `tfidf` (lexical) or a sentence-transformers model."""
    metrics: list[str] = Field(default_factory=list)
    """Further metrics of rankings by import path, for example `[my_metrics:LONG_TAIL]`; see docs/extending.md."""
    draws: int = Field(2000, ge=100)
    """Bootstrap draws (of users)."""
