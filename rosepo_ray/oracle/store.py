"""An oracle as files: `oracle.json` (what it is) and `weights.safetensors` (its tensors)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.model import PopularityScorer, SasrecScorer, version_of
from rosepo_ray.oracle.sasrec import SasRec, Shape

DESCRIPTION = "oracle.json"
WEIGHTS = "weights.safetensors"


def save(oracle: PopularityScorer | SasrecScorer, folder: Path | str) -> str:
    """Write the oracle to `folder` (path or URI) and return its version. The description is written last."""
    storage.write_bytes(storage.join(str(folder), WEIGHTS), safetensors.torch.save(oracle.weights()))
    storage.write_json(storage.join(str(folder), DESCRIPTION), oracle.description() | {"version": oracle.version})
    return oracle.version


def version(folder: Path | str) -> str:
    """The version that `folder` claims, without reading the weights."""
    return str(_description(folder)["version"])


def load(folder: Path | str) -> PopularityScorer | SasrecScorer:
    """The oracle of `folder` (path or URI).

    Raises RosepoError where there is none, its kind is unknown, or the files do not give the version they claim
    (copied in part, or changed by hand).
    """
    description = _description(folder)
    claimed = description.pop("version")
    weights = storage.read_bytes(storage.join(str(folder), WEIGHTS))
    found = version_of(weights, description)
    if found != claimed:
        raise RosepoError(
            f"the oracle in '{folder}' calls itself {claimed}, but its files give {found}: they were changed or copied "
            "in part; train it again or restore them"
        )
    item_ids, seed = tuple(description["items"]), int(description["seed"])
    popularity = tuple(np.array(counts, dtype=np.int64) for counts in description["popularity"])
    temperature = float(description["temperature"])
    if description["kind"] == "popularity":
        return PopularityScorer(item_ids, popularity, temperature, seed)
    if description["kind"] != "sasrec":
        raise RosepoError(f"the oracle in '{folder}' is of the kind '{description['kind']}', which this version lacks")
    tensors = safetensors.torch.load(weights)
    shape = Shape(**description["shape"])
    models = []
    for fold in range(description["folds"]):
        prefix = f"fold{fold}."
        model = SasRec(shape, seed=0)
        model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        models.append(model.eval())
    return SasrecScorer(item_ids, popularity, temperature, seed, tuple(models))


def _description(folder: Path | str) -> dict[str, Any]:
    uri = storage.join(str(folder), DESCRIPTION)
    if not storage.exists(uri):
        raise RosepoError(f"'{folder}' holds no oracle ({DESCRIPTION} is missing); give the oracle stage's folder")
    return dict(storage.read_json(uri))
