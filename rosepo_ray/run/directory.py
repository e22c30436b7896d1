"""The run directory: one run's settings, versions, stages and summary; refused to another configuration."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from rosepo_ray import __version__, storage
from rosepo_ray.config.stage import OPERATIONAL
from rosepo_ray.errors import BadInput, short
from rosepo_ray.process.redaction import redact
from rosepo_ray.run.settings import Settings

SETTINGS = "settings.yaml"
_PACKAGES = ("ray", "torch", "transformers", "peft", "mlflow", "pyarrow", "numpy", "scikit-learn", "pydantic")


def resolve(settings: Settings, recipe: str) -> str:
    """The run directory as an absolute path or URI. Raises BadInput for a relative one inside a Ray job, whose working
    directory does not last."""
    given = settings.run.dir
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and (given is None or ("://" not in given and not Path(given).is_absolute())):
        raise BadInput(
            f"run.dir is {given!r}, but inside a Ray job the working directory does not last; give --run.dir an "
            "absolute path that all nodes share, or an s3:// or gs:// URI"
        )
    if given is None:
        given = f"runs/{Path(recipe).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return storage.join(given) if "://" in given else str(Path(given).expanduser().absolute())


def refuse_other_settings(settings: Settings, run_dir: str) -> None:
    """Raises BadInput where the directory cannot be read or holds a run with other settings, naming them; writes
    nothing."""
    uri = storage.join(run_dir, SETTINGS)
    try:
        if not storage.exists(uri):
            return
        stored = yaml.safe_load(storage.read_bytes(uri))
    except OSError as error:
        raise BadInput(
            f"the run directory {redact(run_dir)} cannot be read ({short(error)}); correct its address, permissions or "
            "credentials, or give another --run.dir"
        ) from error
    except yaml.YAMLError as error:
        raise _broken(uri, short(error)) from error
    if not isinstance(stored, dict):
        raise _broken(uri, f"it holds {type(stored).__name__} where sections belong")
    differing = sorted(_differences(stored, comparable(settings)))
    if differing:
        raise BadInput(
            f"{run_dir} holds a run with other settings ({'; '.join(differing[:5])}); give another --run.dir, or the "
            "settings of that run to resume it"
        )


def _broken(uri: str, reason: str) -> BadInput:
    return BadInput(
        f"{redact(uri)} is damaged ({reason}), so nobody can tell whether the run there has these settings; put the "
        "file back, or give another --run.dir"
    )


def comparable(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.model_dump().items() if name not in OPERATIONAL}


def _differences(stored: Any, own: Any, name: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(own, dict):
        for key in sorted((stored.keys() | own.keys()) - (set(OPERATIONAL) if not name else set())):
            yield from _differences(stored.get(key), own.get(key), f"{name}.{key}" if name else key)
    elif stored != own:
        yield f"{name} is {stored!r} there and {own!r} here"


def record(settings: Settings, run_dir: str) -> None:
    """Write the resolved settings (without credentials), package versions and git revision."""
    values = settings.model_dump()
    if settings.mlflow.tracking_uri is not None:
        values["mlflow"]["tracking_uri"] = redact(settings.mlflow.tracking_uri)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(run_dir, SETTINGS), text.encode())
    storage.write_json(storage.join(run_dir, "versions.json"), versions())


def versions() -> dict[str, Any]:
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "rosepo_ray": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "git": git.stdout.strip() or None,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


@contextmanager
def lock(run_dir: str) -> Iterator[None]:
    """Hold a local run directory for one process. Raises BadInput where a live run holds it."""
    if "://" in run_dir:
        yield
        return
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        held = FileLock(Path(run_dir, ".lock"))
        held.acquire(blocking=False)
    except Timeout as error:
        raise BadInput(f"another live run uses {run_dir}; wait for it or give another --run.dir") from error
    except OSError as error:
        raise BadInput(f"the run directory {run_dir} cannot be written ({error}); give another --run.dir") from error
    try:
        yield
    finally:
        held.release()
