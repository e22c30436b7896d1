"""MLflow runs of one run directory: a parent and nested runs, the same ones again when the job is started again.

Driver only, and one thread of it at a time: workers never write to MLflow. mlflow itself is imported on first use (its
import takes seconds).
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.process.redaction import flatten, redact
from rosepo_ray.registry import server
from rosepo_ray.storage.metrics import Row

STATE = "mlflow.json"
PARENT = "rosepo"
ENDED = ("FINISHED", "FAILED", "KILLED")
_BATCH = 1000  # metrics that MLflow takes per call
_PARAMS = 100  # parameters that MLflow takes per call
_DIGEST = 36  # characters of a data set's digest that MLflow takes
_KEY = "rosepo.key"
"""Tag of a run: the id of its run directory (a path may be used again, or on another machine) and its name there."""
_LOSS = "loss"
"""The figure that every row of a training run has: by it MLflow is asked what arrived."""


def metric_name(name: str) -> str:
    """`hr@1` as MLflow allows it: `hr_at_1`."""
    return name.replace("@", "_at_")


def dataset_of(source: str, digest: str) -> tuple[str, str]:
    """Name and digest under which MLflow knows the data set that was read from there."""
    return storage.name(redact(source)), digest[:_DIGEST]


class Tracker:
    """The MLflow record of one run directory. Nothing is asked of MLflow until a method needs it.

    Run ids are kept in mlflow.json of the run directory; with another tracking server the runs start afresh there. What
    a killed start made without keeping its id is found again by a tag that holds the run directory's own id, which is
    written before the first run is made. Every method can be repeated after it failed, and adds nothing twice.
    """

    def __init__(self, settings: MlflowSettings, run_dir: str) -> None:
        self.run_dir, self.experiment = run_dir, settings.experiment
        self.tracking_uri = server.tracking_uri(settings, run_dir)
        self._state = self._read_state()
        self._runs: dict[str, str] = {}
        self._statuses: dict[str, str] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._writing = threading.Lock()

    @property
    def begun(self) -> bool:
        """Whether an earlier start made the parent run on this server."""
        return self.kept_run_id is not None

    @property
    def kept_run_id(self) -> str | None:
        """Id of the parent run, if it has been made; MLflow is not asked."""
        return self._state["runs"].get(PARENT)

    @cached_property
    def client(self) -> Any:
        return server.connect(self.tracking_uri)

    @cached_property
    def experiment_id(self) -> str:
        return server.experiment_id(self.client, self.experiment, self.tracking_uri)

    @property
    def run_id(self) -> str:
        """Id of the parent run."""
        return self.run(PARENT)

    def run(self, name: str) -> str:
        """Id of the run called `name` (the parent, or one nested in it): continued if it is known, else created."""
        if name not in self._runs:
            kept = self._state["runs"].get(name)
            if kept is None or not self._is_there(kept):
                self._state["id"] = self._state["id"] or uuid.uuid4().hex
                self._write_state()  # the id must last before anything carries it
                kept = self._unkept(name) or self._create(name)
                self._state["runs"][name] = kept
                self._write_state()
            self._runs[name] = kept
        return self._runs[name]

    def _is_there(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _unkept(self, name: str) -> str | None:
        """Id of the run of that name which a start made and was killed before it could keep it."""
        wanted = f"tags.`{_KEY}` = '{self._key(name)}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1, order_by=["start_time ASC"])
        return str(found[0].info.run_id) if found else None

    def _create(self, name: str) -> str:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        label = storage.name(self.run_dir) if name == PARENT else name
        tags = {"rosepo.run_dir": redact(self.run_dir), _KEY: self._key(name)}
        if name != PARENT:
            tags[MLFLOW_PARENT_RUN_ID] = self.run_id
        return str(self.client.create_run(self.experiment_id, run_name=label, tags=tags).info.run_id)

    def _key(self, name: str) -> str:
        return f"{self._state['id']}/{name}"

    def status(self, name: str, status: str) -> None:
        """SCHEDULED, RUNNING, FINISHED, FAILED or KILLED; a run that had ended runs again."""
        if self._statuses.get(name) != status:
            if status in ENDED:
                self.client.set_terminated(self.run(name), status=status)
            else:
                self.client.update_run(self.run(name), status=status)
            self._statuses[name] = status

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

    def last_step(self, name: str, prefix: str = "") -> int:
        """The last step whose figures MLflow has, 0 before the first."""
        if (name, prefix) not in self._last:
            points = self.client.get_metric_history(self.run(name), prefix + _LOSS)
            self._last[name, prefix] = max((int(point.step) for point in points), default=0)
        return self._last[name, prefix]

    def metrics(self, name: str, rows: Sequence[Row], prefix: str = "") -> None:
        """Log the figures of the rows (of `storage.metrics`, in the order of their steps) after :meth:`last_step`:
        the steps that a resumed run repeats are there already."""
        from mlflow.entities import Metric

        last = self.last_step(name, prefix)
        fresh = [row for row in rows if row["step"] > last]
        per_call = _BATCH // max([len(row) for row in fresh], default=1)
        for start in range(0, len(fresh), per_call):
            batch = fresh[start : start + per_call]
            points = [
                Metric(prefix + metric_name(key), float(value), round(row["time"] * 1000), row["step"])
                for row in batch
                for key, value in row.items()
                if key not in ("step", "time")
            ]
            del self._last[name, prefix]  # if the answer is lost, nobody knows what arrived
            self.client.log_batch(self.run(name), metrics=points)
            self._last[name, prefix] = batch[-1]["step"]

    def figures(self, name: str, values: Mapping[str, float | None], **link: str) -> None:
        """Log figures that belong to no step, such as the evaluation's; null ones are left out. `link`: the model_id,
        dataset_name and dataset_digest that they belong to."""
        from mlflow.entities import Metric

        run_id = self.run(name)
        time = int(self.client.get_run(run_id).info.start_time)  # the same at every start, so the same points
        points = [Metric(metric_name(key), float(v), time, 0, **link) for key, v in values.items() if v is not None]
        for start in range(0, len(points), _BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + _BATCH])

    def dataset(self, run_names: Sequence[str], source: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log the data set as an input of these runs: where it was read from, its hash, and its counts."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        kind = source.partition("://")[0] if "://" in source else "local"
        where = json.dumps({"uri": redact(source)})
        data = Dataset(*dataset_of(source, digest), kind, where, profile=json.dumps(profile))
        for run in run_names:
            context = "evaluation" if run == "evaluate" else "training"
            found = DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
            self.client.log_inputs(self.run(run), datasets=[found])

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

    def remember_model(self, name: str, version: str) -> None:
        """Keep in mlflow.json which registered version this run directory made: what promotion judges. It is the last
        step of a registration: a version that is kept has its alias."""
        self._state["model"] = {"name": name, "version": version}
        self._write_state()

    @property
    def model(self) -> dict[str, str] | None:
        """{"name", "version"} of the registered model of this run directory, if there is one."""
        return self._state.get("model")

    def remember_end(self, status: str | None) -> None:
        """Keep in mlflow.json how the job ended, for who sends later what MLflow could not be told."""
        self._state["end"] = status
        self._write_state()

    @property
    def end(self) -> str | None:
        return self._state.get("end")

    def _read_state(self) -> dict[str, Any]:
        stored = read_state(self.run_dir) or {}
        fresh: dict[str, Any] = {
            "id": stored.get("id"),
            "tracking_uri": redact(self.tracking_uri),
            "experiment": self.experiment,
            "runs": {},
            "end": stored.get("end"),
        }
        if any(stored.get(key) != fresh[key] for key in ("tracking_uri", "experiment")):
            return fresh
        return {**fresh, **stored}

    def _write_state(self) -> None:
        with self._writing:
            storage.write_json(storage.join(self.run_dir, STATE), self._state)


def read_state(run_dir: str) -> dict[str, Any] | None:
    """The content of mlflow.json of a run directory, or None: id, tracking_uri, experiment, runs, model, end."""
    uri = storage.join(run_dir, STATE)
    if not storage.exists(uri):
        return None
    state: dict[str, Any] = storage.read_json(uri)
    return state
