"""How rejected items are picked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rosepo_ray.config.section import Section


class SelfHard(Section):
    """The policy's own mistake: the wrong candidate that it finds most likely (helpfulness)."""

    type: Literal["self_hard"] = "self_hard"
    pick: Literal["argmax", "sample"] = "argmax"
    """`argmax`, or `sample` from softmax(log-probability / temperature)."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of `sample`."""


class Semantic(Section):
    """The item never taken whose title reads most like the history (against semantic hallucination)."""

    type: Literal["semantic"]
    top: int = Field(1, ge=1)
    """Draw uniformly from this many nearest items; 1 takes the nearest."""


class Popularity(Section):
    """An item never taken, drawn with probability proportional to popularity ** alpha (against popularity bias)."""

    type: Literal["popularity"]
    alpha: float = Field(1.0, ge=0)
    """Exponent."""


class Uniform(Section):
    """A wrong candidate drawn uniformly: the baseline."""

    type: Literal["uniform"]


class Mix(Section):
    """Each rejected item comes from one of the other strategies, drawn by weight."""

    type: Literal["mix"]
    self_hard: float = Field(0.0, ge=0)
    semantic: float = Field(0.0, ge=0)
    popularity: float = Field(0.0, ge=0)
    uniform: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if self.self_hard + self.semantic + self.popularity + self.uniform <= 0:
            raise ValueError("rejection.strategy mix has only zero weights; give at least one a positive weight")
        return self


StrategySettings = Annotated[SelfHard | Semantic | Popularity | Uniform | Mix, Field(discriminator="type")]


class RejectionSettings(Section):
    strategy: StrategySettings = SelfHard()
    k: int = Field(1, ge=1)
    """Rejected items per example (distinct)."""
    examples: int | None = Field(None, ge=1)
    """Training examples turned into pairs, chosen by hash; null takes all."""
    validation_examples: int = Field(1000, ge=1)
    """Validation examples turned into pairs, for T and the oracle's calibration."""
    encoder: str = "tfidf"
    """Text encoder of titles: `tfidf` (lexical) or a sentence-transformers model by name or path."""
