"""Evaluation: every model ranks the candidates of every row and, for some rows, the whole catalogue; each policy writes
a title freely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.stage import POLICIES, Inputs, stage
from rosepo_ray.data.choice import Choice
from rosepo_ray.data.protocol.seen import seen_items
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.storage import tables


@dataclass(frozen=True)
class EvaluateResult:
    """See :func:`rosepo_ray.evaluation.metrics.evaluate` for all but the first two."""

    split: str
    rows: int
    models: dict[str, Any]
    differences: dict[str, Any]
    target_arp: float
    notes: dict[str, Any]


@stage(needs=("data", "calibrate", POLICIES))
def evaluate(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    data: DataSettings,
    prompt: PromptSettings,
    evaluation: EvaluationSettings,
    scoring: ScoringSettings,
    cluster: ClusterSettings,
) -> EvaluateResult:
    """Judge every model on the same rows; leaves `predictions/MODEL/` and the metrics in `evaluation.json`."""
    from rosepo_ray.catalogue.encoders import build_encoder
    from rosepo_ray.evaluation import controls, judged_rows, metrics, ranking_metrics
    from rosepo_ray.oracle import store

    choice = judged_rows.judged(evaluation, inputs["data"], data.seed)
    ranked = judged_rows.ranked(evaluation, inputs["data"], data.seed, listed=prompt.list_candidates)
    examples = choice.all_rows(inputs["data"])
    if not examples.num_rows:
        raise BadInput(f"the {evaluation.split} split has no examples, so nothing can be evaluated")
    items = tables.read(inputs["data"], "items")
    seen = _seen(inputs["data"], ranked)
    predictions = {"popular": controls.popular(examples, items, seen)}
    if "calibrate" in inputs:
        scorer = store.load(storage.join(inputs["calibrate"], "oracle"))
        predictions["oracle"] = controls.oracle(scorer, examples, items, seen)
    for name, table in predictions.items():
        tables.write_part(storage.join(out, "predictions", name), "predictions", 0, table)
    policies = {name: inputs[name] for name in inputs if name not in ("data", "calibrate", "aligned")}
    policies["aligned"] = inputs["aligned"]  # last in every table
    arguments = (inputs["data"], policies, evaluation, scoring, "cuda" if cluster.use_gpu else "cpu")
    predictions |= _answers(inputs["data"], policies, choice, ranked, arguments, cluster, out)
    result = metrics.evaluate(
        predictions,
        examples,
        items,
        tables.read(inputs["data"], "sequences"),
        build_encoder(evaluation.encoder, items["title"].to_pylist()),
        listed=prompt.list_candidates,
        draws=evaluation.draws,
        seed=seed,
        metrics=ranking_metrics.with_own(evaluation.metrics),
    )
    storage.write_json(storage.join(out, "evaluation.json"), result)
    return EvaluateResult(split=evaluation.split, rows=examples.num_rows, **result)


def _seen(data: str, ranked: Choice) -> dict[str, list[str]]:
    """The examples whose whole catalogue is ranked, and what their rankings leave out."""
    found: dict[str, list[str]] = {}
    for part, taken in zip(tables.parts(data, "examples"), tables.parts(data, "taken"), strict=True):
        rows = ranked.rows(part)
        found |= zip(rows["example_id"].to_pylist(), seen_items(rows, tables.read_part(taken, "taken")), strict=True)
    return found


def _answers(
    data: str,
    policies: Mapping[str, str],
    choice: Choice,
    ranked: Choice,
    arguments: tuple[Any, ...],
    cluster: ClusterSettings,
    out: str,
) -> dict[str, pa.Table]:
    """Ray Data actors go through model after model, holding one policy at a time; units stored before are kept."""
    from rosepo_ray.on_ray import scoring as units

    parts, taken = tables.parts(data, "examples"), tables.parts(data, "taken")
    folders = {model: storage.join(out, "predictions", model) for model in policies}
    cut = units.plan(data, choice)
    planned = [replace(unit, key=model) for model in policies for unit in cut]

    def read(unit: units.Unit) -> pa.Table:
        rows = choice.rows(parts[unit.part])[unit.start : unit.stop]
        items = seen_items(rows, tables.read_part(taken[unit.part], "taken", ["user_id", "whole"]))
        left_out = pa.array(items, pa.list_(pa.string()), mask=~ranked.mask(rows))
        return rows.append_column("left_out", left_out)  # null where the catalogue is not ranked

    rows = units.complete(
        cluster, "evaluate", planned, read, OnePolicy, arguments, "predictions", lambda unit: folders[unit.key]
    )
    found = {model: tables.read(folder, "predictions") for model, folder in folders.items()}
    for model, table in found.items():
        if table.num_rows * len(policies) != rows:
            raise RosepoError(
                f"{model} answered {table.num_rows} of {rows // len(policies)} rows; remove {out} and run again"
            )
    return found


class OnePolicy:
    """What an actor holds: the policy that the newest unit names."""

    def __init__(
        self,
        data: str,
        policies: Mapping[str, str],
        evaluation: EvaluationSettings,
        limits: ScoringSettings,
        device: str,
    ) -> None:
        self.policies, self.evaluation, self.limits, self.device = policies, evaluation, limits, device
        self.items = tables.read(data, "items", ["item_id", "title"])
        self.model = ""
        self.evaluator: Any = None

    def __call__(self, rows: pa.Table, model: str) -> pa.Table:
        if model != self.model:
            self._load(model)
        return tables.from_rows("predictions", self.evaluator.predictions(rows.to_pylist()))

    def _load(self, model: str) -> None:
        from rosepo_ray.evaluation.evaluator import Evaluator
        from rosepo_ray.policy import store

        self.evaluator = None  # the old policy goes before the new one comes
        with storage.local_copy(storage.join(self.policies[model], "model")) as folder:
            policy = store.load(folder, self.device)
        item_ids, titles = (self.items[name].to_pylist() for name in ("item_id", "title"))
        self.evaluator, self.model = Evaluator(policy, item_ids, titles, self.evaluation, self.limits), model
