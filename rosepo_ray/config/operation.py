"""Where and how a run runs: directory, evaluation, MLflow, cluster, promotion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rosepo_ray.config.section import Section


class RunSettings(Section):
    dir: str | None = None
    """Run directory (path or URI). Default: a fresh one under runs/. The same directory again resumes the run."""
    log: Literal["human", "json"] = "human"
    """Lines of the terminal and of run.log: for people, or one JSON object a line."""
    grace_seconds: float = Field(15.0, gt=0)
    """After SIGTERM or Ctrl-C, how long training may take for a checkpoint before the job ends without one. Leaving the
    cluster takes some seconds more; Kubernetes kills after 30."""


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
    batch: int = Field(64, ge=1)
    """Examples per forward pass at most when scoring (rejection too)."""
    tokens: int = Field(4096, ge=64)
    """Tokens per forward pass at most when scoring (rejection too), padding included: bounds its memory. A CPU is
    fastest where these fit its cache; give a GPU more."""
    cache_mib: int = Field(1024, ge=1)
    """Memory for the keys and values of a search through the catalogue, in MiB; a search that would need more gives
    way to scoring every title in chunks, with the same result."""
    draws: int = Field(2000, ge=100)
    """Bootstrap draws (of users)."""


class MlflowSettings(Section):
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = "rosepo"
    """Experiment name."""
    model: str = "rosepo-recommender"
    """Registered model name."""


class ClusterSettings(Section):
    address: str | None = None
    """Address of a running Ray cluster; default: RAY_ADDRESS, else a local one is started for the run."""
    autoscaling: bool = False
    """The cluster adds nodes on demand: do not compare the run's needs with the CPUs that are there at the start."""
    workers: int = Field(1, ge=1)
    """Training workers (DDP ranks)."""
    use_gpu: bool = False
    """One GPU per training worker (bf16) and per scoring actor (fp32)."""
    threads: int | None = Field(None, ge=1)
    """CPU threads per training worker. Default: the machine's cores divided by the workers."""
    actors: int = Field(1, ge=1)
    """Ray Data actors that score examples (rejection, evaluation)."""
    oracle_replicas_min: int = Field(1, ge=1)
    """Serve replicas of the oracle at least."""
    oracle_replicas_max: int = Field(1, ge=1)
    """Serve replicas of the oracle at most (autoscaled)."""
    max_failures: int = Field(3, ge=0)
    """Restarts of the training workers before a run fails."""

    @model_validator(mode="after")
    def _ordered(self) -> ClusterSettings:
        if self.oracle_replicas_max < self.oracle_replicas_min:
            raise ValueError(
                f"cluster.oracle_replicas_max {self.oracle_replicas_max} is below cluster.oracle_replicas_min "
                f"{self.oracle_replicas_min}"
            )
        return self


class PromotionSettings(Section):
    hr_margin: float = Field(0.01, ge=0)
    """HR@1 may fall by this much at most (lower end of the paired interval)."""
    gap_margin: float = Field(5.0, ge=0)
    """The popularity gap |ARP - ARP of the targets| may grow by this much at most (upper end of the interval)."""
