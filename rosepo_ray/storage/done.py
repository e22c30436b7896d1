"""Done means a marker: `_done.json`, written last, with the hashes of a stage's files; a folder without it is void."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError

NAME = "_done.json"


def fingerprint(values: Any) -> str:
    """12 hexadecimal digits fixed by JSON-able values: the settings and inputs that a stage depends on."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def read(folder: str) -> dict[str, Any] | None:
    """The marker of a finished folder, or None. Raises ValueError where it is no JSON object."""
    uri = storage.join(folder, NAME)
    return dict(storage.read_json(uri)) if storage.exists(uri) else None


def info(folder: str) -> dict[str, Any]:
    """What a finished stage returned. Raises RosepoError where the folder has no marker."""
    marker = read(folder)
    if marker is None:
        raise RosepoError(f"{folder} is not finished ({NAME} is missing)")
    return dict(marker["info"])


def write(folder: str, info: dict[str, Any], seconds: float) -> None:
    """Declare `folder` done: everything in it is listed with its hash."""
    files = {name: {"sha256": storage.sha256(storage.join(folder, name))} for name in storage.list_files(folder)}
    storage.write_json(storage.join(folder, NAME), {"info": info, "seconds": seconds, "files": files})


def damage(folder: str) -> str | None:
    """What is wrong with a finished folder: the marker or a file is missing, or a file's hash differs; else None."""
    try:
        marker = read(folder)
        if marker is None:
            return f"{NAME} is missing"
        hashes = {name: entry["sha256"] for name, entry in marker["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # cut short, or no marker at all
        return f"{NAME} cannot be read"
    present = set(storage.list_files(folder))
    for name, expected in hashes.items():
        if name not in present:
            return f"{name} is missing"
        if storage.sha256(storage.join(folder, name)) != expected:
            return f"{name} is not what was written"
    return None
