"""The run's record in MLflow, the aligned model packaged, registered and named `challenger`."""

from __future__ import annotations

from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.process.redaction import redact
from rosepo_ray.registry import packaging
from rosepo_ray.registry.tracking import PARENT, Tracker
from rosepo_ray.stages import evaluate


def run(settings: Settings, inputs: dict[str, str], run_dir: str) -> dict[str, Any]:
    """Log every stage's settings, metrics and figures; register the aligned policy. Repeating changes nothing."""
    tracker = Tracker(settings, run_dir)
    data = storage.read_json(storage.join(inputs["data"], "_done.json"))["info"]
    values = settings.model_dump()
    tracker.params(PARENT, values)
    tracker.tags(PARENT, {"rosepo.dataset": data["dataset"], "rosepo.protocol": data["protocol"]})
    for name in ("oracle", "sft", "align", "sft_longer"):
        if name not in inputs:
            continue
        tracker.params(name, {name: values[name], "seed": settings.seed})
        for metrics in _metric_files(inputs[name]):
            tracker.metrics(name, metrics)
    for name, folder in inputs.items():
        tracker.tags(PARENT, {f"rosepo.stage.{name}": folder})
    if "calibrate" in inputs:
        info = storage.read_json(storage.join(inputs["calibrate"], "_done.json"))["info"]
        tracker.figures("oracle", {name: info[name] for name in ("temperature", "ece", "pair_accuracy")})
        tracker.figures("oracle", {f"epsilon_{split}": value for split, value in info["epsilon"].items()})
        tracker.artifact("oracle", storage.join(inputs["calibrate"], "oracle"), "oracle")
    evaluation = storage.read_json(storage.join(inputs["evaluate"], "_done.json"))["info"]
    for model, metrics in evaluation["models"].items():
        tracker.figures("evaluate", {f"{model}.{name}": entry["value"] for name, entry in metrics.items()})
    tracker.artifact("evaluate", storage.join(inputs["evaluate"], "evaluation.json"))
    policy = storage.join(inputs["align"], "model")
    version = packaging.registered(tracker, settings.mlflow.model, packaging.policy_hash(policy))
    if version is not None:
        packaging.announce(tracker, settings.mlflow.model, version)
    else:
        uri = packaging.log_model(
            tracker,
            policy,
            inputs["data"],
            history=settings.data.history,
            repeats=settings.data.repeats == "keep",
            limits=settings.evaluation,
        )
        predictions = storage.join(inputs["evaluate"], "predictions", "aligned")
        judged = evaluate.judged(settings, inputs["data"])
        packaging.log_evidence(tracker, predictions=predictions, data=inputs["data"], examples=judged)
        packaging.register(
            tracker,
            uri,
            settings.mlflow.model,
            policy=policy,
            protocol=data["protocol"],
            dataset=data["dataset"],
            evaluation=inputs["evaluate"],
            figures={name: entry["value"] for name, entry in evaluation["models"]["aligned"].items()},
        )
    for name in ("oracle", "sft", "sft_longer", "align", "evaluate", PARENT):
        tracker.finish(name)
    model = tracker.model or {}
    return {
        "tracking_uri": redact(tracker.tracking_uri),
        "run_id": tracker.run_id,
        "model": model.get("name"),
        "version": model.get("version"),
    }


def _metric_files(stage: str) -> list[str]:
    return [storage.join(stage, name) for name in storage.list_files(stage) if name.endswith("metrics.jsonl")]
