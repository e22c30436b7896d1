"""The oracle behind Ray Serve: handle calls, no HTTP.

The client makes the batches (see `oracle_client.py`): a call costs far more than the scoring of a pair, so gathering
single calls in the replica (`@serve.batch`) would not win back what they cost.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray
import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from rosepo_ray.errors import Refused, RosepoError
from rosepo_ray.on_ray.cluster import ORACLE_CPUS
from rosepo_ray.oracle import store
from rosepo_ray.oracle.judging import MAX_PAIRS, JudgeAnswer, JudgeRequest, check_request, judge

DEPLOYMENT = "oracle"
REPLICA_THREADS = 1
TARGET_ONGOING_REQUESTS = 2
"""Requests per replica at which a further replica is started."""
MAX_ONGOING_REQUESTS = 8
"""Above the target, else a replica refuses the very load that should make the service grow."""
START_SECONDS = 300.0
"""Longest wait for the first replicas; an autoscaled cluster may have to start a node for them."""
_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)


class OracleDeployment:
    """One replica: the oracle of a folder."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(REPLICA_THREADS)
        self._oracle = store.load(folder)
        self._version = self._oracle.version
        self._started = time.time()

    def judge(self, request: JudgeRequest) -> JudgeAnswer:
        """1 - P(chosen > rejected) for each pair. Raises BadInput above MAX_PAIRS pairs or for unequal lists."""
        check_request(request, MAX_PAIRS)
        return judge(self._oracle, request)

    def health(self) -> dict[str, Any]:
        """The replica that answers: version, kind, temperature, items, process id, seconds since it started."""
        return {
            "version": self._version,
            "kind": self._oracle.kind,
            "temperature": self._oracle.temperature,
            "items": None if self._oracle.items is None else len(self._oracle.items),
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "seconds": time.time() - self._started,
        }


def start(folder_uri: str, app_name: str, replicas_min: int = 1, replicas_max: int = 1) -> str:
    """:func:`begin` and :func:`await_running`; of an app that does not come up nothing stays behind."""
    version = begin(folder_uri, app_name, replicas_min, replicas_max)
    try:
        await_running(app_name)
    except RosepoError:
        stop(app_name)
        raise
    return version


def begin(folder_uri: str, app_name: str, replicas_min: int = 1, replicas_max: int = 1) -> str:
    """Host the oracle of `folder_uri` as the Serve app `app_name`; return its version before the replicas are up, so
    that they can load beside something else.

    An app of that name with the same version is left as it is. Raises Refused where it hosts another version, and
    RosepoError where the folder holds no oracle. Ray must be initialised.
    """
    version = store.version(folder_uri)
    hosted = _hosted_version(app_name)
    if hosted == version:
        return version
    if hosted is not None:
        raise Refused(
            f"the Serve app '{app_name}' already hosts the oracle {hosted}, asked was {version}; stop that app or use "
            "another name, since a run must not change its oracle half-way"
        )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Nothing listens: the service is reached through handles inside the cluster. No effect where Serve already runs.
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    application = _deployment(replicas_min, replicas_max).bind(folder_uri)
    serve.run_many(
        [serve.RunTarget(application, name=app_name, route_prefix=None)], wait_for_applications_running=False
    )
    return version


def await_running(app_name: str) -> None:
    """Wait, in any process of the cluster, until the app that was begun can answer. Raises RosepoError where its
    replicas do not come up."""
    failure = _failure_to_run(app_name)
    if failure is not None:
        raise RosepoError(
            f"the oracle did not come up as the Serve app '{app_name}': {failure}. Every node must be able to read the "
            f"oracle's folder, and the cluster must have {ORACLE_CPUS} free CPUs per replica"
        )


def _failure_to_run(app_name: str) -> str | None:
    """Wait until the app runs (None); else why it does not. Serve itself would wait for ever where nothing fits."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        app = serve.status().applications.get(app_name)
        if app is None:
            return "it was stopped"
        if app.status == ApplicationStatus.RUNNING:
            return None
        if app.status == ApplicationStatus.DEPLOY_FAILED:
            return " ".join(f"{app.message} {app.deployments[DEPLOYMENT].message}".split())
        time.sleep(0.1)
    return f"it was still {app.status.value} after {START_SECONDS:.0f} seconds"


def stop(app_name: str) -> None:
    """Take the app down; nothing happens where it does not run."""
    if ray.is_initialized() and app_name in serve.status().applications:
        serve.delete(app_name)


def _deployment(replicas_min: int, replicas_max: int) -> serve.Deployment:
    return serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        autoscaling_config={
            "min_replicas": replicas_min,
            "max_replicas": replicas_max,
            "target_ongoing_requests": TARGET_ONGOING_REQUESTS,
        },
        ray_actor_options={"num_cpus": ORACLE_CPUS},
        # Scoring a batch takes milliseconds, so a replica that must go needs no long farewell.
        graceful_shutdown_timeout_s=5,
        health_check_period_s=2,
        health_check_timeout_s=30,
        logging_config=_QUIET,
    )(OracleDeployment)


def _hosted_version(app_name: str) -> str | None:
    """The version that the app answers with; None where there is no such app, or only the rest of a failed one."""
    app = serve.status().applications.get(app_name)
    if app is None or app.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.NOT_STARTED):
        return None
    if app.status == ApplicationStatus.DELETING:
        serve.delete(app_name)  # waits until it is gone
        return None
    try:
        return str(serve.get_app_handle(app_name).health.remote().result(timeout_s=60)["version"])
    except (TimeoutError, RayError, RayServeException) as error:
        raise RosepoError(
            f"a Serve app '{app_name}' is {app.status.value} but does not say which oracle it hosts "
            f"({type(error).__name__}); stop it or use another name"
        ) from error
