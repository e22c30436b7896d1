"""Whether MLflow will take a run's record: asked before any work, and nothing is made by asking.

MLflow itself is asked by a process of its own: its import takes seconds, it retries for minutes where a database is
down, and a driver that gives up cannot end a call that hangs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

import rosepo_ray
from rosepo_ray.errors import BadInput, short
from rosepo_ray.process.redaction import redact

_TIMEOUT = 5.0  # seconds until a server counts as unreachable
_LOOKUP = 7.0  # seconds that the look-up of the experiment may take, after the import of MLflow
_PROCESS = 120.0  # seconds for all of it: an import from a slow disk is no fault of the server
_ASK = "from rosepo_ray.registry import reachable; reachable.answer()"


def check(uri: str, experiment: str) -> None:
    """Raises BadInput unless a run could be recorded at `uri` under `experiment`; makes neither file nor experiment.

    A server or database has 15 seconds at most to answer.
    """
    if uri.startswith("sqlite:///"):
        file = sqlite_file(uri)
        _check_sqlite(file)
        if not file.is_file():
            return
    check_http(uri)
    found = _ask(uri, experiment)
    if "reason" in found:
        raise _unusable(uri, found["reason"])
    if found["state"] not in (None, "active"):
        raise deleted(experiment)


def check_http(uri: str, timeout: float = _TIMEOUT) -> None:
    """Raises BadInput unless the http(s) server at `uri` answers within `timeout` seconds; other kinds pass."""
    if not uri.startswith(("http://", "https://")):
        return
    address, _, host = uri.partition("://")
    # Credentials stay out of the request: any answer of the server, even a refusal, shows that it is there.
    request = urllib.request.Request(f"{address}://{host.rpartition('@')[2].rstrip('/')}/health")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return
        reason: object = f"it answers {error.code}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
    raise _unusable(uri, reason)


def deleted(experiment: str) -> BadInput:
    return BadInput(
        f"the MLflow experiment '{experiment}' was deleted; restore it, or set mlflow.experiment to another"
    )


def sqlite_file(uri: str) -> Path:
    return Path(make_url(uri).database or "").absolute()


def _unusable(uri: str, reason: object) -> BadInput:
    return BadInput(
        f"the MLflow server {redact(uri)} cannot be used ({reason}); start it, correct mlflow.tracking_uri or "
        "MLFLOW_TRACKING_URI, or leave both out for a local sqlite file"
    )


def _check_sqlite(file: Path) -> None:
    """Raises BadInput unless SQLite could write `file`, which need not exist, and new files in its folder."""
    try:
        folder = next(path for path in file.parents if path.exists())
        with tempfile.TemporaryFile(dir=folder):  # SQLite's journal and the folder of artefacts need it too
            pass
        if file.exists():
            _begin_writing(file)
    except (OSError, sqlite3.Error) as error:
        raise BadInput(
            f"the MLflow database {file} cannot be written ({short(error)}); make it and its folder writable, or set "
            "mlflow.tracking_uri or MLFLOW_TRACKING_URI to another"
        ) from error


def _begin_writing(file: Path) -> None:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=1, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        # Another run is writing right now: so it can be written.
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
    finally:
        connection.close()


def _ask(uri: str, experiment: str) -> dict[str, Any]:
    """{"state": the experiment's, or null where there is none} or {"reason": why MLflow cannot tell}."""
    path = os.pathsep.join([str(Path(rosepo_ray.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "PYTHONPATH": path,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK],
            input=json.dumps({"uri": uri, "experiment": experiment}),  # not an argument: it may hold a password
            capture_output=True,
            text=True,
            env=environment,
            timeout=_PROCESS,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"reason": f"MLflow did not start within {_PROCESS:.0f} seconds"}
    except (IndexError, ValueError):
        return {"reason": _plain((done.stderr.strip() or f"MLflow ended with {done.returncode}").splitlines()[-1])}
    return found


def answer() -> None:
    """The side of the process that asks MLflow: request on stdin, answer as the last line on stdout."""
    asked = json.load(sys.stdin)
    # The time for the look-up starts after the imports, which a busy machine makes slow.
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    if not asked["uri"].startswith("sqlite:"):  # a file has no server that could be silent
        late = threading.Timer(_LOOKUP, _reply, [{"reason": f"no answer within {_LOOKUP:.0f} seconds"}])
        late.daemon = True
        late.start()
    try:
        found: dict[str, Any] = {"state": _state(asked["uri"], asked["experiment"])}
    except Exception as error:  # MLflow's, SQLAlchemy's, a database driver's, or that there is none
        found = {"reason": _plain(short(getattr(error, "orig", None) or error))}
    _reply(found)


def _reply(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a call that hangs must not hold the process


def _state(uri: str, experiment: str) -> str | None:
    import mlflow
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if uri.partition("://")[0].partition("+")[0] in DATABASE_ENGINES:
        import sqlalchemy

        # MLflow would try again for minutes, and fill an empty database with tables.
        engine = sqlalchemy.create_engine(uri)
        if not sqlalchemy.inspect(engine).has_table("experiments"):
            return None
        engine.dispose()
    found = mlflow.MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment)
    return None if found is None else str(found.lifecycle_stage)


def _plain(text: str) -> str:
    """Word by word without credentials: errors quote addresses."""
    return " ".join(redact(word) for word in text.split())
