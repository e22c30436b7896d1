"""The machines of a run, and what each part of it takes of them."""

from __future__ import annotations

from pydantic import Field, model_validator

from rosepo_ray.config.section import Section


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
