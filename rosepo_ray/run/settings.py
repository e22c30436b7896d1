"""Every setting of a run, validated. The docstring below a field is its help text.

What the method itself needs is in `library/settings.py`. How the values are gathered (recipe,
environment, command line) is in `sources.py`, which settings have no effect beside others in `unused_settings.py`.
"""

from __future__ import annotations

from pydantic import model_validator

from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.sft import SftLongerSettings
from rosepo_ray.config.training import FitSettings
from rosepo_ray.library.settings import MethodSettings


class Settings(MethodSettings):
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    sft_longer: SftLongerSettings = SftLongerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    mlflow: MlflowSettings = MlflowSettings()
    cluster: ClusterSettings = ClusterSettings()
    promotion: PromotionSettings = PromotionSettings()

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
