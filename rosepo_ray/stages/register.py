"""The run's record in MLflow, read from what the stages left; the aligned model packaged, registered, `challenger`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.stage import kind_of
from rosepo_ray.evaluation.judged_rows import judged_rows
from rosepo_ray.process.redaction import redact
from rosepo_ray.registry import packaging, system_metrics
from rosepo_ray.registry.sender import RUNNING
from rosepo_ray.registry.tracking import PARENT, Tracker, dataset_of
from rosepo_ray.storage import done, metrics

_TRAINED = ("oracle", "sft", "align", "sft_longer")
_NESTED = (*_TRAINED, "evaluate")
"""Stages with a run of their own, nested in the parent."""


@dataclass(frozen=True)
class RegisterResult:
    tracking_uri: str
    run_id: str | None
    model: str | None
    version: str | None
    """None for what MLflow could not be told: `rosepo sync` does that later."""


class Record:
    """What MLflow is told of a run: parent and nested runs, figures by step, what each finished stage found.

    All of it stands in the run directory, and MLflow knows what arrived. So a run that is resumed, killed or cut off
    from the server needs no bookkeeping: :meth:`send` compares, and adds what is missing.
    """

    def __init__(self, tracker: Tracker, values: Mapping[str, Any], folders: Mapping[str, str]) -> None:
        """`values` holds every setting, `folders` the folder of each stage of the run, finished or not."""
        self.tracker, self.values, self.folders = tracker, values, folders
        self._told: set[str] = set()
        self._system = system_metrics.Monitor(tracker)

    def send(self, status: str = RUNNING) -> None:
        """Tell what is new; the status is the parent's, and that of stages which have begun and not finished.

        Raises what MLflow raises; called again, it goes on there.
        """
        try:
            if PARENT not in self._told:
                self._begin()
            for name, folder in self.folders.items():
                if name not in self._told:
                    self._send_stage(name, folder, status)
            if status != RUNNING:
                self._system.stop()
            self.tracker.status(PARENT, status)
            if status == RUNNING:
                self._system.start()
        except Exception:
            self._system.stop()
            raise

    def _begin(self) -> None:
        tracker = self.tracker
        tracker.params(PARENT, self.values)
        tracker.tags(PARENT, {f"rosepo.stage.{name}": folder for name, folder in self.folders.items()})
        for name in self._nested():
            own = {name: self.values[kind_of(name)], "seed": self.values["seed"]} if kind_of(name) in _TRAINED else {}
            tracker.params(name, own)
        self._told.add(PARENT)

    def _nested(self) -> list[str]:
        return [name for name in self.folders if kind_of(name) in _NESTED]

    def _send_stage(self, name: str, folder: str, status: str) -> None:
        tracker, marker = self.tracker, done.read(folder)
        if kind_of(name) in _TRAINED:
            for below in metrics.runs(folder):
                prefix = below and f"{below}/"
                fresh = metrics.read_after(
                    storage.join(folder, *filter(None, [below])), tracker.last_step(name, prefix)
                )
                tracker.metrics(name, fresh, prefix)
        if kind_of(name) in _NESTED:
            begun = status if storage.exists(folder) else "SCHEDULED"
            tracker.status(name, begun if marker is None else "FINISHED")
        if marker is None:
            return
        match name:
            case "data":
                self._data(marker["info"])
            case "calibrate":
                self._calibrate(folder, marker["info"])
            case "evaluate":
                for model, found in marker["info"]["models"].items():
                    tracker.figures(name, {f"{model}.{key}": entry["value"] for key, entry in found.items()})
                tracker.artifact(name, storage.join(folder, "evaluation.json"))
        self._told.add(name)

    def _data(self, info: Mapping[str, Any]) -> None:
        self.tracker.tags(PARENT, {"rosepo.dataset": info["dataset"], "rosepo.protocol": info["protocol"]})
        self.tracker.dataset([PARENT, *self._nested()], self.source, info["dataset"], info["counts"])

    @property
    def source(self) -> str:
        """Where the log was read from: the user's files, or the name of a sample."""
        return str(self.values["data"]["interactions"] or self.values["data"]["sample"])

    def _calibrate(self, folder: str, info: Mapping[str, Any]) -> None:
        figures = {name: info[name] for name in ("temperature", "ece", "pair_accuracy")}
        figures |= {f"epsilon_{split}": value for split, value in info["epsilon"].items()}
        self.tracker.figures("oracle", figures)
        self.tracker.artifact("oracle", storage.join(folder, "oracle"), "oracle")


def register(
    record: Record,
    *,
    data: DataSettings,
    evaluation: EvaluationSettings,
    scoring: ScoringSettings,
    mlflow: MlflowSettings,
) -> RegisterResult:
    """Complete the record of a finished run and register the aligned policy. Repeating changes nothing.

    It belongs to a run and a tracking server, not to the store of stages: it has no folder of its own.
    """
    tracker, folders = record.tracker, record.folders
    record.send()
    hashes, judged = done.info(folders["data"]), done.info(folders["evaluate"])
    policy = storage.join(folders["align"], "model")
    version = packaging.registered(tracker, mlflow.model, packaging.policy_hash(policy))
    if version is not None:
        packaging.announce(tracker, mlflow.model, version)
    else:
        figures = {name: entry["value"] for name, entry in judged["models"]["aligned"].items()}
        step = done.info(folders["align"])["steps"]
        uri = packaging.log_model(
            tracker,
            policy,
            folders["data"],
            history=data.history,
            repeats=data.repeats == "keep",
            limits=scoring,
            step=step,
        )
        packaging.link_evaluation(tracker, uri, figures, dataset_of(record.source, hashes["dataset"]))
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
            figures=figures,
        )
    record.send("FINISHED")
    model = tracker.model or {}
    return RegisterResult(redact(tracker.tracking_uri), tracker.run_id, model.get("name"), model.get("version"))
