"""The run's record in MLflow, the aligned model packaged, registered and named `challenger`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.evaluation.judged_rows import judged_rows
from rosepo_ray.process.redaction import redact
from rosepo_ray.registry import packaging
from rosepo_ray.registry.tracking import PARENT, Tracker
from rosepo_ray.storage import done


@dataclass(frozen=True)
class RegisterResult:
    tracking_uri: str
    run_id: str
    model: str | None
    version: str | None


def register(
    folders: Mapping[str, str],
    run_dir: str,
    values: Mapping[str, Any],
    *,
    data: DataSettings,
    evaluation: EvaluationSettings,
    scoring: ScoringSettings,
    mlflow: MlflowSettings,
) -> RegisterResult:
    """Log every stage's settings, metrics and figures; register the aligned policy. Repeating changes nothing.

    `folders` holds the folder of every stage of the run by name, `values` every setting. It belongs to a run and a
    tracking server, not to the store: it has no folder of its own.
    """
    tracker = Tracker(mlflow, run_dir)
    hashes, judged = done.info(folders["data"]), done.info(folders["evaluate"])
    tracker.params(PARENT, values)
    tracker.tags(PARENT, {"rosepo.dataset": hashes["dataset"], "rosepo.protocol": hashes["protocol"]})
    for name in ("oracle", "sft", "align", "sft_longer"):
        if name not in folders:
            continue
        tracker.params(name, {name: values[name], "seed": values["seed"]})
        for metrics in _metric_files(folders[name]):
            tracker.metrics(name, metrics)
    for name, folder in folders.items():
        tracker.tags(PARENT, {f"rosepo.stage.{name}": folder})
    if "calibrate" in folders:
        info = done.info(folders["calibrate"])
        tracker.figures("oracle", {name: info[name] for name in ("temperature", "ece", "pair_accuracy")})
        tracker.figures("oracle", {f"epsilon_{split}": value for split, value in info["epsilon"].items()})
        tracker.artifact("oracle", storage.join(folders["calibrate"], "oracle"), "oracle")
    for model, metrics in judged["models"].items():
        tracker.figures("evaluate", {f"{model}.{name}": entry["value"] for name, entry in metrics.items()})
    tracker.artifact("evaluate", storage.join(folders["evaluate"], "evaluation.json"))
    policy = storage.join(folders["align"], "model")
    version = packaging.registered(tracker, mlflow.model, packaging.policy_hash(policy))
    if version is not None:
        packaging.announce(tracker, mlflow.model, version)
    else:
        uri = packaging.log_model(
            tracker, policy, folders["data"], history=data.history, repeats=data.repeats == "keep", limits=scoring
        )
        examples = judged_rows(evaluation, folders["data"], data.seed)
        predictions = storage.join(folders["evaluate"], "predictions", "aligned")
        packaging.log_evidence(tracker, predictions=predictions, data=folders["data"], examples=examples)
        packaging.register(
            tracker,
            uri,
            mlflow.model,
            policy=policy,
            protocol=hashes["protocol"],
            dataset=hashes["dataset"],
            evaluation=folders["evaluate"],
            figures={name: entry["value"] for name, entry in judged["models"]["aligned"].items()},
        )
    for name in ("oracle", "sft", "sft_longer", "align", "evaluate", PARENT):
        tracker.finish(name)
    model = tracker.model or {}
    return RegisterResult(redact(tracker.tracking_uri), tracker.run_id, model.get("name"), model.get("version"))


def _metric_files(stage: str) -> list[str]:
    return [storage.join(stage, name) for name in storage.list_files(stage) if name.endswith("metrics.jsonl")]
