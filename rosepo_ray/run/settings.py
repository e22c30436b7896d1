"""Every setting of a run, validated. The docstring below a field is its help text.

The kinds of each seam enter themselves when their packages are imported here. How the values are gathered (recipe,
environment, command line) is in `sources.py`, which settings have no effect beside others in `unused_settings.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

import rosepo_ray.losses
import rosepo_ray.oracle
import rosepo_ray.rejection  # noqa: F401
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.kinds import ORACLES, POLICIES
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.config.rejection import RejectionSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.section import Section
from rosepo_ray.config.sft import SftLongerSettings, SftSettings
from rosepo_ray.config.training import FitSettings


class Settings(Section):
    seed: int = 1
    """Seed of everything but the protocol (see data.seed)."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    policy: Annotated[Any, POLICIES] = Field(default_factory=POLICIES.default)
    """The language model."""
    prompt: PromptSettings = PromptSettings()
    sft: SftSettings = SftSettings()
    sft_longer: SftLongerSettings = SftLongerSettings()
    oracle: Annotated[Any, ORACLES] = Field(default_factory=ORACLES.default)
    """The preference oracle."""
    rejection: RejectionSettings = Field(default_factory=RejectionSettings)
    align: AlignSettings = Field(default_factory=AlignSettings)
    evaluation: EvaluationSettings = EvaluationSettings()
    scoring: ScoringSettings = ScoringSettings()
    mlflow: MlflowSettings = MlflowSettings()
    cluster: ClusterSettings = ClusterSettings()
    promotion: PromotionSettings = PromotionSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
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

    @model_validator(mode="after")
    def _enough_candidates(self) -> Settings:
        strategy, pool = self.rejection.strategy, self.data.candidates - 1
        if strategy.pool == "candidates" and self.rejection.k > pool:
            raise ValueError(
                f"rejection.k {self.rejection.k} asks for more distinct wrong candidates than data.candidates leaves "
                f"({pool}); lower it"
            )
        return self

    @model_validator(mode="after")
    def _rows_for_every_worker(self) -> Settings:
        batches = {"sft.batch": self.sft.batch, "align.batch": self.align.batch}
        if isinstance(self.oracle, FitSettings):
            batches["oracle.batch"] = self.oracle.batch
        for name, batch in batches.items():
            if batch < self.cluster.workers:
                raise ValueError(
                    f"cluster.workers {self.cluster.workers} share the {batch} rows of a step ({name}), so some would "
                    "never have one; lower the one or raise the other"
                )
        return self
