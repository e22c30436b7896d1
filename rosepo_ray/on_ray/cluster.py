"""Connecting to Ray: a running cluster, or a local one for the length of the run; and the sum of what a run needs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.process.quiet import native_code_silenced, quiet_libraries

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # the default of 15 starves workers beside anything else
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of several tasks that fail, the first is told
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the C++ layer writes to the driver's terminal
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_OBJECT_STORE_BYTES = 512 << 20
ACTOR_CPUS = 1.0
READ_CPUS = 0.5
ORACLE_CPUS = 0.25  # oracle.service.REPLICA_CPUS, which is not imported here since it imports ray
"""Logical CPUs: bookkeeping that keeps a layout from waiting for itself."""


@dataclass(frozen=True)
class Need:
    """Logical CPUs and GPUs that the widest stage asks for at once."""

    cpus: float
    gpus: int
    sum: str


def need(cluster: ClusterSettings, served: bool) -> Need:
    """The widest stage is alignment: training workers, the oracle's replicas and, per worker, the stream that asks the
    oracle (a read, a sort and a map task) where one is `served`; or the scoring actors of rejection and evaluation."""
    oracle = ORACLE_CPUS * cluster.oracle_replicas_max if served else 0.0
    align = cluster.workers + oracle + cluster.workers * (1.0 + 2 * READ_CPUS)
    actors = ACTOR_CPUS * cluster.actors + 2 * READ_CPUS
    text = (
        f"{cluster.workers} training worker(s) x 1 + {oracle:g} for oracle replicas + {cluster.workers} stream(s) x 2 "
        f"= {align:g} CPUs in alignment; {cluster.actors} actor(s) x {ACTOR_CPUS:g} + {2 * READ_CPUS:g} = {actors:g} "
        "CPUs in rejection and evaluation"
    )
    gpus = max(cluster.workers, cluster.actors) if cluster.use_gpu else 0
    return Need(max(align, actors, 4.0), gpus, text)


def prepare_environment() -> None:
    """Variables that Ray and tokenizers read when imported; what the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def address(cluster: ClusterSettings) -> str | None:
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def start(cluster: ClusterSettings, served: bool) -> bool:
    """Connect to the cluster named by settings or RAY_ADDRESS, else start a local one; True where it is local.

    Raises BadInput where the run does not fit: Ray would wait for the missing CPUs without a word.
    """
    prepare_environment()
    import ray

    quiet_libraries()  # importing it, Ray has set its own level
    wanted, where = need(cluster, served), address(cluster)
    if where is None:
        with native_code_silenced():  # it announces that RAY_BACKEND_LOG_LEVEL is set
            ray.init(
                address="local",  # else Ray joins whatever cluster was last started by hand on this machine
                num_cpus=int(-(-wanted.cpus // 1)),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,  # workers' errors reach the driver as exceptions; the rest is Ray's own talk
                configure_logging=False,
            )
    else:
        try:
            ray.init(address=where, logging_level="error", log_to_driver=False)
        except ConnectionError as error:
            raise BadInput(f"no Ray cluster answers at '{where}'; start one or unset cluster.address") from error
    try:
        _refuse_misfit(cluster, wanted)
    except BadInput:
        stop()
        raise
    return where is None


def _refuse_misfit(cluster: ClusterSettings, wanted: Need) -> None:
    import ray

    if cluster.autoscaling:
        return
    there = ray.cluster_resources()
    if there.get("CPU", 0) < wanted.cpus or there.get("GPU", 0) < wanted.gpus:
        raise BadInput(
            f"the run needs {wanted.cpus:g} CPUs and {wanted.gpus} GPUs ({wanted.sum}), the cluster has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; lower cluster.workers, cluster.actors or "
            "cluster.oracle_replicas_max, or set cluster.autoscaling true where nodes come on demand"
        )


def stop() -> None:
    """Leave the cluster; a local one ends with it."""
    import ray

    ray.shutdown()
