"""The record of a run in MLflow, beside the work: begun with it, and completed later where MLflow is away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rosepo_ray.errors import NoSpace, Stopped
from rosepo_ray.process.redaction import redact
from rosepo_ray.registry import server
from rosepo_ray.registry.sender import RUNNING, Sender
from rosepo_ray.registry.tracking import Tracker
from rosepo_ray.run.settings import Settings
from rosepo_ray.stages.register import Record, RegisterResult, register

LOGGER = logging.getLogger(__name__)

_SECONDS = {"FINISHED": 60.0, "FAILED": 10.0, "KILLED": 5.0}
"""How long the end of a job waits for MLflow, at most: who stops a job does not wait long."""


def refuse_unusable(settings: Settings, run_dir: str) -> None:
    """Raises BadInput where a run that begins now could not be recorded. One that has begun goes on without MLflow."""
    tracker = Tracker(settings.mlflow, run_dir)
    if not tracker.begun:
        server.refuse_unusable(settings.mlflow, tracker.tracking_uri)


class Recording:
    """Tells MLflow how the run goes, from `start` to `finish` or `end`."""

    def __init__(self, settings: Settings, run_dir: str, folders: Mapping[str, str]) -> None:
        self._settings, self._run_dir = settings, run_dir
        self.tracker = Tracker(settings.mlflow, run_dir)
        self.record = Record(self.tracker, settings.model_dump(), folders)
        self._sender = Sender(self.record.send)

    def start(self) -> None:
        server.quiet()  # imported here: beside the main thread's own imports it could meet half a module
        self.tracker.remember_end(None)
        self._sender.start()

    def end(self, error: BaseException | None = None) -> None:
        """The job is over without a registration: a stage alone is finished, or it failed or was stopped."""
        stopped = isinstance(error, Stopped | KeyboardInterrupt | SystemExit)
        self._close("FINISHED" if error is None else "KILLED" if stopped else "FAILED")

    def finish(self) -> dict[str, Any]:
        """Every stage is finished: complete the record and register the model, as summary.json keeps it.

        Where MLflow is away it is a warning, and what is known of the run. Raises what a server that is there refuses.
        """
        self.tracker.remember_end("FINISHED")
        arrived = self._sender.close(RUNNING, _SECONDS["FINISHED"])
        self._sender = Sender(self.record.send)
        if arrived:
            try:
                return self.register()
            except Exception as error:
                if not server.is_away(error):
                    raise
                LOGGER.warning("MLflow does not answer (%s): the model is not registered", server.reason(error))
        self._close("FINISHED")
        uri, model = redact(self.tracker.tracking_uri), self.tracker.model or {}
        return asdict(RegisterResult(uri, self.tracker.kept_run_id, model.get("name"), model.get("version")))

    def register(self) -> dict[str, Any]:
        settings = self._settings
        sections = {name: getattr(settings, name) for name in ("data", "evaluation", "scoring", "mlflow")}
        return asdict(register(self.record, **sections))

    def _close(self, status: str) -> None:
        try:
            self.tracker.remember_end(status)
        except (OSError, NoSpace) as error:  # which may be what ended the job: that is told, not this
            LOGGER.warning("how the job ended cannot be kept in %s (%s)", self._run_dir, error)
        if not self._sender.close(status, _SECONDS[status]):
            LOGGER.warning("MLflow has not been told everything; `rosepo sync --run %s` does that later", self._run_dir)


def sentence(found: Mapping[str, Any]) -> str:
    """What `finish` or `register` returned, in one line."""
    run = f"MLflow run {found['run_id']} at {found['tracking_uri']}"
    if found["version"] is None:
        return f"{run}; the model is not registered yet"
    return f"{run}; {found['model']} version {found['version']}, alias challenger"
