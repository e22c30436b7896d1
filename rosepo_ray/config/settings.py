"""Every setting of a run, validated. The docstring below a field is its help text.

Imports neither torch nor ray, so that `--help` and `--dry-run` answer at once. How the values are gathered (recipe,
environment, command line) is in `sources.py`, which settings have no effect beside others in `effects.py`.
"""

from __future__ import annotations

from pydantic import model_validator

from rosepo_ray.config.align import ROBUST_EPSILON, AlignSettings
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.oracle import OracleSettings, SasrecOracle
from rosepo_ray.config.policy import PolicySettings, PromptSettings, ScratchPolicy
from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.config.rejection import Mix, RejectionSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.section import Section
from rosepo_ray.config.sft import SftLongerSettings, SftSettings


class Settings(Section):
    seed: int = 1
    """Seed of everything but the protocol (see data.seed)."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    policy: PolicySettings = ScratchPolicy()
    prompt: PromptSettings = PromptSettings()
    sft: SftSettings = SftSettings()
    sft_longer: SftLongerSettings = SftLongerSettings()
    oracle: OracleSettings = SasrecOracle()
    rejection: RejectionSettings = RejectionSettings()
    align: AlignSettings = AlignSettings()
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
        bound = self.oracle.epsilon if self.oracle.type == "constant" else self.align.epsilon_max
        if self.align.objective.type == "robust" and bound > ROBUST_EPSILON and self.align.replay is None:
            name = "oracle.epsilon" if self.oracle.type == "constant" else "align.epsilon_max"
            raise ValueError(
                f"{name} {bound} with align.objective robust divides by 1-2e near 0; set it to {ROBUST_EPSILON} or less"
            )
        if self.policy.type == "scratch" and self.prompt.max_tokens >= self.policy.max_tokens:
            raise ValueError(
                f"prompt.max_tokens {self.prompt.max_tokens} leaves no room for a title in policy.max_tokens "
                f"{self.policy.max_tokens}; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> Settings:
        strategy, pool = self.rejection.strategy, self.data.candidates - 1
        from_catalogue = strategy.type in ("semantic", "popularity") or (
            isinstance(strategy, Mix) and strategy.semantic + strategy.popularity > 0
        )
        if not from_catalogue and self.rejection.k > pool:
            raise ValueError(
                f"rejection.k {self.rejection.k} asks for more distinct wrong candidates than data.candidates leaves "
                f"({pool}); lower it"
            )
        return self

    @model_validator(mode="after")
    def _rows_for_every_worker(self) -> Settings:
        batches = {"sft.batch": self.sft.batch, "align.batch": self.align.batch}
        if self.oracle.type == "sasrec":
            batches["oracle.batch"] = self.oracle.batch
        for name, batch in batches.items():
            if batch < self.cluster.workers:
                raise ValueError(
                    f"cluster.workers {self.cluster.workers} share the {batch} rows of a step ({name}), so some would "
                    "never have one; lower the one or raise the other"
                )
        return self
