"""An oracle as files: `oracle.json` (what it is) and `weights.safetensors` (its tensors)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch

from rosepo_ray import storage
from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.protocol import Oracle, ScoringOracle

DESCRIPTION = "oracle.json"
WEIGHTS = "weights.safetensors"


def save(oracle: Oracle, folder: Path | str) -> str:
    """Write the oracle to `folder` (path or URI) and return its version. The description is written last."""
    weights = safetensors.torch.save(oracle.weights())
    description = {"kind": oracle.kind, **oracle.description(), "version": oracle.version}
    storage.write_bytes(storage.join(str(folder), WEIGHTS), weights)
    storage.write_json(
        storage.join(str(folder), DESCRIPTION), {**description, "checksum": hash_of(weights, description)}
    )
    return oracle.version


def version(folder: Path | str) -> str:
    """The version that `folder` claims, without reading the weights."""
    return str(_description(folder)["version"])


def load(folder: Path | str) -> Oracle:
    """The oracle of `folder` (path or URI).

    Raises RosepoError where there is none, its kind is unknown, or the files are not as they were written (copied in
    part, or changed by hand).
    """
    description = _description(folder)
    checksum = description.pop("checksum")
    weights = storage.read_bytes(storage.join(str(folder), WEIGHTS))
    if hash_of(weights, description) != checksum:
        raise RosepoError(
            f"the oracle {description['version']} in '{folder}' is not as it was written: its files were changed or "
            "copied in part; train it again or restore them"
        )
    try:
        kind = ORACLES.find(description["kind"])
    except ValueError as error:
        raise RosepoError(f"the oracle in '{folder}' cannot be loaded: {error}") from error
    if not issubclass(kind, ScoringOracle):
        raise RosepoError(f"the oracle in '{folder}' is of the kind '{description['kind']}', which scores no items")
    return kind.load(description, safetensors.torch.load(weights))


def hash_of(weights: bytes, description: dict[str, Any]) -> str:
    """The first 12 hexadecimal digits of SHA-256 over the safetensors bytes and a description."""
    canonical = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(weights + b"\0" + canonical).hexdigest()[:12]


def _description(folder: Path | str) -> dict[str, Any]:
    uri = storage.join(str(folder), DESCRIPTION)
    if not storage.exists(uri):
        raise RosepoError(f"'{folder}' holds no oracle ({DESCRIPTION} is missing); give the oracle stage's folder")
    return dict(storage.read_json(uri))
