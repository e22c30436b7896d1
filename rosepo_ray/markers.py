"""Done means a marker: `_done.json`, written last, with the hashes of a stage's files; a folder without it is void."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rosepo_ray import storage

NAME = "_done.json"


def fingerprint(values: Any) -> str:
    """12 hexadecimal digits fixed by JSON-able values: the settings and inputs that a stage depends on."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def read(folder: str) -> dict[str, Any] | None:
    """The marker of a finished stage, or None."""
    uri = storage.join(folder, NAME)
    return dict(storage.read_json(uri)) if storage.exists(uri) else None


def write(folder: str, info: dict[str, Any], seconds: float) -> None:
    files = {}
    for name in storage.list_files(folder):
        uri = storage.join(folder, name)
        files[name] = {"sha256": storage.sha256(uri)}
    storage.write_json(storage.join(folder, NAME), {"info": info, "seconds": seconds, "files": files})
