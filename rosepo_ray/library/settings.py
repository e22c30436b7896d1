"""The settings of the method itself, whatever runs it: this process, or the pipeline.

The kinds of each seam enter themselves when their packages are imported here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

import rosepo_ray.losses
import rosepo_ray.oracle
import rosepo_ray.rejection  # noqa: F401
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.kinds import ORACLES, POLICIES
from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.config.rejection import RejectionSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.section import Section
from rosepo_ray.config.sft import SftSettings


class MethodSettings(Section):
    seed: int = 1
    """Seed of everything but the protocol (see data.seed)."""
    policy: Annotated[Any, POLICIES] = Field(default_factory=POLICIES.default)
    """The language model."""
    prompt: PromptSettings = PromptSettings()
    sft: SftSettings = SftSettings()
    oracle: Annotated[Any, ORACLES] = Field(default_factory=ORACLES.default)
    """The preference oracle."""
    rejection: RejectionSettings = Field(default_factory=RejectionSettings)
    align: AlignSettings = Field(default_factory=AlignSettings)
    scoring: ScoringSettings = ScoringSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> MethodSettings:
        if self.sft.dense and self.prompt.template != "titles":
            raise ValueError(
                f"sft.dense needs prompt.template titles, but it is {self.prompt.template}; set sft.dense false"
            )
        given, most = self.oracle.largest_epsilon, self.align.objective.largest_epsilon
        if given > most:
            raise ValueError(
                f"oracle.{self.oracle.bound} {given:g} is more than the objective {self.align.objective.type} can be "
                f"given; set it to {most:g} or less"
            )
        if missing := self.align.objective.needs & ({"epsilon", "oracle_scores"} - self.oracle.gives):
            raise ValueError(
                f"the objective {self.align.objective.type} needs {' and '.join(sorted(missing))}, which oracle.type "
                f"{self.oracle.type} does not give; take an oracle that scores items"
            )
        return self
