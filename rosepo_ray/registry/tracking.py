"""MLflow runs of one run directory: a parent and nested runs, the same ones again when the job is started again.

Driver only: workers never write to MLflow. mlflow itself is imported on first use (its import takes seconds).
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.process.redaction import flatten, redact
from rosepo_ray.registry.reachable import check_http, deleted, sqlite_file

STATE = "mlflow.json"
PARENT = "rosepo"
_BATCH = 1000  # metrics that MLflow takes per call
_PARAMS = 100  # parameters that MLflow takes per call
_KEY = "rosepo.key"
"""Tag of a run: the id of its run directory (a path may be used again, or on another machine) and its name there."""
_VARIABLE = "MLFLOW_TRACKING_URI"


def tracking_uri(settings: MlflowSettings, run_dir: str) -> str:
    """The setting, else MLFLOW_TRACKING_URI, else a sqlite file beside the run directory.

    Raises BadInput for a remote run directory without either: sqlite needs a local disk.
    """
    given = settings.tracking_uri or os.environ.get(_VARIABLE)
    if given:
        if given.startswith("file:") or ("://" not in given and given != "databricks"):
            raise BadInput(
                f"mlflow.tracking_uri '{given}' names a folder, which MLflow 3 no longer writes; use "
                "sqlite:////PATH/mlflow.db or the address of a server"
            )
        return given
    if not storage.is_local(run_dir):
        raise BadInput(
            f"run.dir '{run_dir}' is remote and a sqlite file cannot live there; set --mlflow.tracking_uri or "
            "MLFLOW_TRACKING_URI to an MLflow server"
        )
    file = Path(storage.filesystem(run_dir)[1]).parent / "mlflow.db"
    return URL.create("sqlite", database=str(file)).render_as_string()  # quoted as this SQLAlchemy reads it


def artifact_location(uri: str) -> str | None:
    """Where the artefacts of a new experiment go: beside a sqlite file (MLflow's own default is the working
    directory, which Ray changes); None leaves it to the server."""
    if not uri.startswith("sqlite:///"):
        return None
    return (sqlite_file(uri).parent / "mlartifacts").as_uri()


def quiet() -> None:
    """Import mlflow so that it neither reports home nor announces every migration and download."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", mlflow.__name__):
        logging.getLogger(name).setLevel(logging.WARNING)


def connect(uri: str, create: bool = True) -> Any:
    """An MlflowClient of `uri`, which also becomes the default of this process.

    Raises BadInput for a server that does not answer and, unless `create`, for a sqlite file that is not there.
    """
    check_http(uri)
    if uri.startswith("sqlite:///"):
        file = sqlite_file(uri)
        if not create and not file.is_file():
            raise BadInput(f"there is no MLflow database at {file}; check mlflow.tracking_uri")
        file.parent.mkdir(parents=True, exist_ok=True)
    quiet()
    import mlflow

    # set_tracking_uri also writes the environment variable, which the next run directory would take for the user's.
    before = os.environ.get(_VARIABLE)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = before
    return mlflow.MlflowClient(tracking_uri=uri)


def metric_name(name: str) -> str:
    """`hr@1` as MLflow allows it: `hr_at_1`."""
    return name.replace("@", "_at_")


def read_metrics(text: str, start_ms: int) -> list[tuple[str, float, int, int]]:
    """(name, value, timestamp in ms, step) of every figure in the text of a metrics.jsonl.

    A row is {"step": int, metric: number or null}, optionally with "time" in Unix seconds; without it the time is
    `start_ms` plus the step, so that logging the same file twice writes the same points. Raises RosepoError.
    """
    figures = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row.get("step"), int):
            raise RosepoError(f"metrics.jsonl line {number} has no whole number 'step': {line[:80]}")
        time = round(row["time"] * 1000) if "time" in row else start_ms + row["step"]
        for name, value in row.items():
            if name in ("step", "time") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RosepoError(f"metrics.jsonl line {number}: '{name}' is {value!r}, not a number")
            figures.append((metric_name(name), float(value), time, row["step"]))
    return figures


class Tracker:
    """The MLflow record of one run directory.

    `tracking_uri` is checked before anything is written. Run ids are kept in mlflow.json of the run directory; with
    another tracking server the runs start afresh there. What a killed start made without keeping its id is found again
    by a tag that holds the run directory's own id, which is written before the first run is made.
    """

    def __init__(self, settings: MlflowSettings, run_dir: str) -> None:
        self.run_dir = run_dir
        self.tracking_uri = tracking_uri(settings, run_dir)
        self.experiment = settings.experiment
        self.client = connect(self.tracking_uri)
        self.experiment_id = self._experiment_id()
        self._state = self._read_state()
        self._write_state()  # the id must last before anything carries it
        self.run_id = self.run(PARENT)

    def run(self, name: str) -> str:
        """Id of the run called `name` (the parent, or one nested in it): continued if it is known, else created."""
        from mlflow.exceptions import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        known = self._state["runs"].get(name)
        if known is not None:
            try:
                if self.client.get_run(known).info.lifecycle_stage == "active":
                    self.client.update_run(known, status="RUNNING")
                    return str(known)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        run_id = self._unkept(name)
        if run_id is None:
            label = storage.name(self.run_dir) if name == PARENT else name
            tags = {"rosepo.run_dir": redact(self.run_dir), _KEY: self._key(name)}
            if name != PARENT:
                tags[MLFLOW_PARENT_RUN_ID] = self.run_id
            run_id = str(self.client.create_run(self.experiment_id, run_name=label, tags=tags).info.run_id)
        self._state["runs"][name] = run_id
        self._write_state()
        return run_id

    def _key(self, name: str) -> str:
        return f"{self._state['id']}/{name}"

    def _unkept(self, name: str) -> str | None:
        """Id of the run of that name which a start made and was killed before it could keep it."""
        wanted = f"tags.`{_KEY}` = '{self._key(name)}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1, order_by=["start_time ASC"])
        if not found:
            return None
        self.client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)

    def params(self, name: str, values: Mapping[str, Any]) -> None:
        """Log settings, flattened and without secrets. MLflow's parameters are final: where a continued run has
        another value (a cluster setting may change between starts), the new one is kept as a tag."""
        from mlflow.entities import Param, RunTag

        run_id = self.run(name)
        before = self.client.get_run(run_id).data.params
        flat = flatten(values)
        fresh = [Param(key, value) for key, value in flat.items() if key not in before]
        for start in range(0, len(fresh), _PARAMS):
            self.client.log_batch(run_id, params=fresh[start : start + _PARAMS])
        changed = [RunTag(f"changed.{key}", v) for key, v in flat.items() if key in before and before[key] != v]
        for start in range(0, len(changed), _PARAMS):
            self.client.log_batch(run_id, tags=changed[start : start + _PARAMS])

    def metrics(self, name: str, uri: str) -> int:
        """Log every figure of the metrics.jsonl at `uri` by step; returns how many. Repeating it changes nothing."""
        run_id = self.run(name)
        start_ms = int(self.client.get_run(run_id).info.start_time)
        figures = read_metrics(storage.read_bytes(uri).decode(), start_ms)
        self._log(run_id, figures)
        return len(figures)

    def figures(self, name: str, values: Mapping[str, float | None]) -> None:
        """Log figures that belong to no step, such as the evaluation's; null ones are left out."""
        run_id = self.run(name)
        start_ms = int(self.client.get_run(run_id).info.start_time)
        self._log(run_id, [(metric_name(key), float(v), start_ms, 0) for key, v in values.items() if v is not None])

    def tags(self, name: str, values: Mapping[str, str]) -> None:
        """Set tags, such as hashes and folders; credentials in addresses are hidden."""
        run_id = self.run(name)
        for key, value in values.items():
            self.client.set_tag(run_id, key, redact(value))

    def artifact(self, name: str, uri: str, folder: str | None = None) -> None:
        """Log the file or the whole folder at `uri` below `folder` of the run's artefacts.

        Raises RosepoError where there is nothing at `uri`.
        """
        if not storage.exists(uri):
            raise RosepoError(f"{uri} does not exist, so it cannot be logged to MLflow")
        run_id = self.run(name)
        with storage.local_copy(uri) as local:
            log = self.client.log_artifacts if local.is_dir() else self.client.log_artifact
            log(run_id, str(local), folder)

    def finish(self, name: str, failed: bool = False) -> None:
        """End the run called `name`; starting the job again reopens it."""
        if name in self._state["runs"]:
            self.client.set_terminated(self._state["runs"][name], status="FAILED" if failed else "FINISHED")

    def remember_model(self, name: str, version: str) -> None:
        """Keep in mlflow.json which registered version this run directory made: what promotion judges. It is the last
        step of a registration: a version that is kept has its alias."""
        self._state["model"] = {"name": name, "version": version}
        self._write_state()

    @property
    def model(self) -> dict[str, str] | None:
        """{"name", "version"} of the registered model of this run directory, if there is one."""
        return self._state.get("model")

    def _log(self, run_id: str, figures: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        entries = [Metric(*figure) for figure in figures]
        for start in range(0, len(entries), _BATCH):
            self.client.log_batch(run_id, metrics=entries[start : start + _BATCH])

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise deleted(self.experiment)
            return str(found.experiment_id)
        try:
            location = artifact_location(self.tracking_uri)
            return str(self.client.create_experiment(self.experiment, artifact_location=location))
        except MlflowException:
            # Another job may have created it between the two calls.
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _read_state(self) -> dict[str, Any]:
        stored = read_state(self.run_dir) or {}
        fresh = {
            "id": stored.get("id", uuid.uuid4().hex),
            "tracking_uri": redact(self.tracking_uri),
            "experiment": self.experiment,
            "runs": {},
        }
        if any(stored.get(key) != fresh[key] for key in ("tracking_uri", "experiment")):
            return fresh
        return {**fresh, **stored}

    def _write_state(self) -> None:
        storage.write_json(storage.join(self.run_dir, STATE), self._state)


def read_state(run_dir: str) -> dict[str, Any] | None:
    """The content of mlflow.json of a run directory, or None: id, tracking_uri, experiment, runs, model."""
    uri = storage.join(run_dir, STATE)
    if not storage.exists(uri):
        return None
    state: dict[str, Any] = storage.read_json(uri)
    return state
