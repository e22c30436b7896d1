"""The tracking server: its address, the connection, and whether it will take a run's record."""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput, chain, short
from rosepo_ray.process.redaction import HIDDEN, redact

_VARIABLE, _REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
_SECONDS = 10.0  # that a server has to answer before a run begins
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "8", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_SQLITE = "sqlite:///"


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


def recorded_uri(settings: MlflowSettings, kept: str | None) -> str:
    """Where a run's record is: the setting, else MLFLOW_TRACKING_URI, else the address `kept` in its mlflow.json.

    Raises BadInput where none is there, or one without the credentials that it had.
    """
    uri = settings.tracking_uri if settings.tracking_uri and HIDDEN not in settings.tracking_uri else None
    uri = uri or os.environ.get(_VARIABLE) or kept or settings.tracking_uri
    if uri is None:
        raise BadInput(
            "nothing says where MLflow's records are; give --run DIR of a run that began its record, or "
            "--mlflow.tracking_uri"
        )
    if HIDDEN in uri:
        raise BadInput(
            f"the address {uri} was kept without its credentials; set MLFLOW_TRACKING_URI, or keep the credentials in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


def artifact_location(uri: str) -> str | None:
    """Where the artefacts of a new experiment go: beside a sqlite file (MLflow's own default is the working
    directory, which Ray changes); None leaves it to the server."""
    return (_sqlite_file(uri).parent / "mlartifacts").as_uri() if uri.startswith(_SQLITE) else None


def quiet() -> None:
    """Import mlflow so that it neither reports home nor announces every migration, download and outage."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", mlflow.__name__):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("mlflow.system_metrics", "mlflow.store.db.utils"):  # an outage is the sender's to tell
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(uri: str) -> Any:
    """An MlflowClient of `uri`, which also becomes the default of this process."""
    if uri.startswith(_SQLITE):
        _sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
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


def registry_uri() -> str:
    """The address of the model registry that :func:`connect` leads to, without credentials."""
    import mlflow

    return redact(mlflow.get_registry_uri())


def experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment of that name, made where there is none. Raises BadInput for a deleted one."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another job may have created it between the two calls
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise BadInput(f"the MLflow experiment '{name}' was deleted; restore it, or set mlflow.experiment to another")
    return str(found.experiment_id)


@contextmanager
def impatient() -> Iterator[None]:
    """Inside, a request waits seconds for its answer, not minutes, unless the user's environment says how long."""
    ours = {name: value for name, value in _IMPATIENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def refuse_unusable(settings: MlflowSettings, uri: str) -> None:
    """Raises BadInput unless a run could be recorded at `uri` now, and a model registered. Makes the experiment."""

    def ask(client: Any) -> None:
        from mlflow.exceptions import MlflowException

        experiment_id(client, settings.experiment, uri)
        try:
            client.get_registered_model(settings.model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            if _REGISTRY in os.environ:
                raise _unusable("registry", os.environ[_REGISTRY], error, f"correct {_REGISTRY} or unset it") from error
            raise

    reach(uri, ask)


def reach(uri: str, ask: Callable[[Any], None], create: bool = True) -> Any:
    """The client of `uri`, once `ask(client)` has its answers.

    Raises BadInput where the server does not give them within ten seconds, where SQLite cannot write its file and,
    unless `create`, where there is none.
    """
    if uri.startswith(_SQLITE):
        if not create and not _sqlite_file(uri).is_file():
            raise BadInput(f"there is no MLflow database at {_sqlite_file(uri)}; check mlflow.tracking_uri")
        _refuse_unwritable(_sqlite_file(uri))
    quiet()  # its import takes seconds that are no fault of the server
    answers: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            client = connect(uri)
            ask(client)
            answers.put(client)
        except BaseException as error:  # MLflow's, SQLAlchemy's, a database driver's, or that there is none
            answers.put(error)

    with impatient():
        # Beside the main thread: where a database is down, MLflow tries for minutes. A file has no server to be silent.
        threading.Thread(target=run, daemon=True).start()
        try:
            found = answers.get(timeout=None if uri.startswith(_SQLITE) else _SECONDS)
        except queue.Empty:
            found = TimeoutError(f"no answer within {_SECONDS:.0f} seconds")
    if isinstance(found, BadInput):
        raise found
    if isinstance(found, BaseException):
        advice = f"start it, correct mlflow.tracking_uri or {_VARIABLE}, or leave both out for a local sqlite file"
        raise _unusable("server", uri, found, advice) from found
    return found


def is_away(error: BaseException) -> bool:
    """Whether the server or database did not answer, or not just now; otherwise it did, and refused."""
    from requests import RequestException
    from sqlalchemy.exc import OperationalError

    kinds = (RequestException, OperationalError, ConnectionError, TimeoutError)
    return any(isinstance(each, kinds) for each in chain(error))


def reason(error: BaseException) -> str:
    """What lies at the bottom of MLflow's error, on one line and without credentials: errors quote addresses."""
    *_, inner = chain(error)
    return " ".join(redact(word) for word in short(inner).split())


def _unusable(what: str, uri: str, error: BaseException, advice: str) -> BadInput:
    return BadInput(f"the MLflow {what} {redact(uri)} cannot be used ({reason(error)}); {advice}")


def _sqlite_file(uri: str) -> Path:
    return Path(make_url(uri).database or "").absolute()


def _refuse_unwritable(file: Path) -> None:
    """Raises BadInput unless SQLite can write `file`, which may be new: MLflow would try for minutes."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=1, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # another run is writing right now: so it can be written
                raise
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise BadInput(
            f"the MLflow database {file} cannot be written ({short(error)}); make it and its folder writable, or set "
            "mlflow.tracking_uri or MLFLOW_TRACKING_URI to another"
        ) from error
