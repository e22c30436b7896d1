"""Logging and registering the aligned recommender: an MLflow pyfunc from code, with all that it needs beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import rosepo_ray
from rosepo_ray import storage
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.process.redaction import redact
from rosepo_ray.registry import requests
from rosepo_ray.registry.tracking import Tracker, metric_name
from rosepo_ray.storage import tables

RUN = "align"
"""The nested run that holds the model and the evidence of its evaluation."""
EVIDENCE = "evidence"
CHALLENGER = "challenger"
_POLICY = "rosepo.policy"
_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def requirements() -> list[str]:
    """What a process must have installed to load the model: the versions it was made with. Neither ray nor rosepo_ray;
    a local version label (`+cpu`) is left out, for it exists on some indexes only."""
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in _REQUIREMENTS]


def policy_hash(policy: str) -> str:
    """SHA-256 over names and contents of the files of the policy folder at `policy`."""
    digest = hashlib.sha256()
    for name in storage.list_files(policy):
        digest.update(f"{name}\0{storage.sha256(storage.join(policy, name))}\n".encode())
    return digest.hexdigest()


def log_model(
    tracker: Tracker, policy: str, data: str, *, history: int, repeats: bool, limits: ScoringSettings, step: int = 0
) -> str:
    """Log the policy folder at `policy` as a pyfunc in the run `align`; returns its `models:/…` URI.

    Where an earlier attempt to register it has logged it whole, that one is taken. What is left half logged, by this
    attempt or by one that was killed, is deleted.

    Args:
        tracker: the run directory's MLflow record.
        policy: URI of a folder that `rosepo_ray.policy.store.load` reads.
        data: URI of the data stage's folder (for `items`).
        history: items of a history that the policy was trained to see at most.
        repeats: whether users take items again, so that a ranking of the whole catalogue may hold their history.
        limits: rows and tokens of a forward pass, and the memory of a search through the catalogue.
        step: optimiser steps after which the policy was saved: MLflow links the figures of that step with it.

    Raises:
        RosepoError: the data stage has no items.
    """
    digest = policy_hash(policy)
    if (logged := _logged(tracker, digest)) is not None:
        return logged
    import mlflow
    import pandas as pd

    items = tables.read(data, "items", ["item_id", "title"])
    if items.num_rows < 2:
        raise RosepoError(f"{data} has {items.num_rows} items, and a recommender needs at least two")
    ids = items["item_id"].slice(0, 3).to_pylist()
    example = pd.DataFrame({"history": [ids[:1]], "candidates": [ids[1:]]})
    with tempfile.TemporaryDirectory(prefix="rosepo-") as name, storage.local_copy(policy) as local:
        temporary = Path(name)
        pq.write_table(items, temporary / "items.parquet")
        artifacts = {"items": str(temporary / "items.parquet")}
        # MLflow stores an artefact under its last name, so each gets its own here.
        for key, folder in (("policy", local), ("base", base_to_ship(local))):
            if folder is not None:
                shutil.copytree(folder, temporary / key, copy_function=_link)
                artifacts[key] = str(temporary / key)
        package = _code(temporary)
        with _whole_or_nothing(tracker, digest), mlflow.start_run(run_id=tracker.run(RUN)):
            info = mlflow.pyfunc.log_model(
                name="recommender",
                python_model=str(package / "registry" / "packaged_model.py"),
                artifacts=artifacts,
                code_paths=[str(package)],
                model_config={
                    "history": history,
                    **{name: getattr(limits, name) for name in ("batch", "tokens", "cache_mib")},
                },
                signature=requests.signature(repeats),
                input_example=example,
                pip_requirements=requirements(),
                tags={_POLICY: digest},
                params=tracker.client.get_run(tracker.run(RUN)).data.params,
                step=step,
            )
    return str(info.model_uri)


def _logged(tracker: Tracker, digest: str) -> str | None:
    """The URI of the whole model that the run has of the policy with that hash; others of it are deleted."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client, run_id, uri = tracker.client, tracker.run(RUN), None
    for model in client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run_id}'"):
        if model.tags.get(_POLICY) != digest:
            continue
        if str(model.status) == "READY" and uri is None:
            uri = str(model.model_uri)
            continue
        get_artifact_repository(model.artifact_location).delete_artifacts()
        client.delete_logged_model(model.model_id)
    return uri


@contextmanager
def _whole_or_nothing(tracker: Tracker, digest: str) -> Iterator[None]:
    """Deletes the model that is half logged where logging it fails."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the server may be what failed; then the next attempt tidies up
            _logged(tracker, digest)
        raise


def link_evaluation(
    tracker: Tracker, model_uri: str, figures: Mapping[str, float | None], dataset: tuple[str, str]
) -> None:
    """Give the logged model the figures of its evaluation, on the data set of that name and digest, and the run
    `evaluate` the model as its input."""
    from mlflow.entities import LoggedModelInput

    model_id = model_uri.removeprefix("models:/")
    tracker.client.log_inputs(tracker.run("evaluate"), models=[LoggedModelInput(model_id)])
    name, digest = dataset
    tracker.figures("evaluate", figures, model_id=model_id, dataset_name=name, dataset_digest=digest)


def log_evidence(tracker: Tracker, *, predictions: str, data: str, examples: pa.Table) -> None:
    """Log what promotion compares: the aligned model's predictions, the judged examples, and the items.

    Args:
        predictions: URI of the folder with the `predictions` table of the aligned model.
        data: URI of the data stage's folder.
        examples: the rows that were judged, a table of schema `examples`.
    """
    found: dict[str, pa.Table] = {
        "predictions": tables.read(predictions, "predictions"),
        "examples": examples,
        "items": tables.read(data, "items"),
    }
    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        for name, table in found.items():
            tables.write_part(temporary, name, 0, table)
        tracker.artifact(RUN, temporary, EVIDENCE)


def register(
    tracker: Tracker,
    model_uri: str,
    name: str,
    *,
    policy: str,
    protocol: str,
    dataset: str,
    evaluation: str,
    figures: Mapping[str, float | None],
) -> str:
    """Register the logged model, give it the alias `challenger`, return the version.

    Repeated for the same policy it returns the version that is there. Tags hold the protocol and dataset hashes, the
    policy's hash, the run directory, the evaluation folder and the evaluation's figures.
    """
    from mlflow.exceptions import MlflowException

    client, digest = tracker.client, policy_hash(policy)
    version = registered(tracker, name, digest)
    if version is None:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            "rosepo.protocol": protocol,
            "rosepo.dataset": dataset,
            _POLICY: digest,
            "rosepo.run_dir": redact(tracker.run_dir),
            "rosepo.evaluation": redact(evaluation),
            **{f"rosepo.{metric_name(key)}": f"{value:.6g}" for key, value in figures.items() if value is not None},
        }
        run_id, model_id = tracker.run(RUN), model_uri.removeprefix("models:/")
        created = client.create_model_version(name, model_uri, run_id=run_id, tags=tags, model_id=model_id)
        version = str(created.version)
    announce(tracker, name, version)
    return version


def announce(tracker: Tracker, name: str, version: str) -> None:
    """Give the version the alias `challenger` and keep it in mlflow.json, in this order: a start that is killed between
    is completed by the next. A version that is kept already is left alone: the alias may have moved on since."""
    if tracker.model != {"name": name, "version": version}:
        tracker.client.set_registered_model_alias(name, CHALLENGER, version)
        tracker.remember_model(name, version)


def base_to_ship(policy: Path) -> Path | None:
    """The folder of the base model that must travel with the adapter at `policy`, or None.

    A hub model is kept by name and revision; a local folder, and the sample that pip carries, exist on this machine
    only.
    """
    description = json.loads((policy / "policy.json").read_text())["policy"]
    if description["type"] != "pretrained" or not (policy / "adapter").is_dir():
        return None
    from rosepo_ray.config.policy import PretrainedPolicy
    from rosepo_ray.policy.pretrained import source_folder

    source = Path(source_folder(PretrainedPolicy.model_validate(description)))
    return source.absolute() if source.is_dir() else None


def registered(tracker: Tracker, name: str, digest: str) -> str | None:
    """The version that this run directory registered for the policy with that hash, if it is still there: the one kept
    in mlflow.json, else one that a start made and was killed before it could keep it."""
    from mlflow.exceptions import MlflowException

    model = tracker.model
    if model is not None and model["name"] == name:
        try:
            kept: Any = tracker.client.get_model_version(name, model["version"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            if kept.tags.get(_POLICY) == digest:
                return str(kept.version)
    found = tracker.client.search_model_versions(f"run_id = '{tracker.run(RUN)}'")
    versions = [int(one.version) for one in found if one.name == name and one.tags.get(_POLICY) == digest]
    return str(max(versions)) if versions else None


def _code(temporary: Path) -> Path:
    """A copy of the package without caches: what travels with the model must not depend on what ran before."""
    source, package = Path(rosepo_ray.__file__).parent, temporary / "rosepo_ray"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def _link(source: str, target: str) -> None:
    """A hard link instead of a copy where the file system allows it: a base model is large."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
