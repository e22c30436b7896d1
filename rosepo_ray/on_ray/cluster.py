"""Connecting to Ray: a running cluster, or a local one for the length of the run; and the sum of what a run needs."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.errors import BadInput, short
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
_ANSWERS_SECONDS = 5.0
_ENDS_SECONDS = 10.0
_SOCKET_NAMES = len("/ray/session_2026-11-28_09-00-00_000000_0000000/sockets/plasma_store")
ACTOR_CPUS = 1.0
READ_CPUS = 0.5
ORACLE_CPUS = 0.25  # of a replica: a small model that mostly waits for the trainer
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
                _temp_dir=_short_folder(),
                address="local",  # else Ray joins whatever cluster was last started by hand on this machine
                num_cpus=int(-(-wanted.cpus // 1)),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,  # workers' errors reach the driver as exceptions; the rest is Ray's own talk
                configure_logging=False,
            )
    else:
        _refuse_dead_address(where)
        try:
            ray.init(address=where, logging_level="error", log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"no Ray cluster answers at '{where}' ({short(error)}); start one, or unset cluster.address and "
                "RAY_ADDRESS"
            ) from error
    try:
        _refuse_misfit(cluster, wanted)
    except BadInput:
        stop()
        raise
    return where is None


def _refuse_dead_address(where: str) -> None:
    """Looked at first: Ray itself would try for a quarter of an hour."""
    kind, _, rest = where.rpartition("://")
    if kind in ("http", "https"):
        raise BadInput(
            f"the address '{where}' is that of a dashboard, which `ray job submit` wants; give the cluster's own, "
            "HOST:6379 or ray://HOST:10001, in cluster.address or RAY_ADDRESS, or submit this as a job"
        )
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if not colon:  # `auto` and `local` are words of Ray's
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_SECONDS).close()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"nothing listens at the Ray address '{where}' ({error}); start the cluster, or unset cluster.address and "
            "RAY_ADDRESS for a local one"
        ) from error


def _short_folder() -> str | None:
    """Ray's temporary folder, where the usual one is too deep: a socket's path may have 107 bytes, of which Ray's own
    names take 64."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(usual.encode()) <= 107 - _SOCKET_NAMES or not os.access("/tmp", os.W_OK):
        return None
    return "/tmp/ray"


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
    """Leave the cluster; a local one ends with it, down to its last process: after a failure some have stayed alive."""
    import psutil
    import ray

    of_ray = [child for child in psutil.Process().children(recursive=True) if _is_rays(child)]
    ray.shutdown()
    _, alive = psutil.wait_procs(of_ray, timeout=_ENDS_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _is_rays(process: Any) -> bool:
    import psutil

    with suppress(psutil.Error):
        words = process.cmdline()
        return any("/ray/" in word or word.startswith("ray::") for word in words[:3])
    return False
