"""Evaluation: every model ranks the candidates of every row, and each policy writes a title freely."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from rosepo_ray import storage, tables
from rosepo_ray.config import Settings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.stages import cluster, units

POLICIES = ("sft", "sft_longer", "align")
_NAMES = {"align": "aligned"}


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Leaves `predictions/MODEL/` for each model and returns the metrics (see evaluation.metrics.evaluate)."""
    from rosepo_ray.evaluation import controls
    from rosepo_ray.evaluation.metrics import evaluate
    from rosepo_ray.rejection.text import build_encoder

    choice = _choice(settings, inputs["data"])
    examples = _rows(choice, inputs["data"])
    if not examples.num_rows:
        raise BadInput(f"the {settings.evaluation.split} split has no examples, so nothing can be evaluated")
    items = tables.read(inputs["data"], "items")
    predictions = {"popular": controls.popular(examples, items)}
    if settings.oracle.type != "constant":
        predictions["oracle"] = _oracle(storage.join(inputs["calibrate"], "oracle"), examples)
    for name, table in predictions.items():
        tables.write_part(storage.join(out, "predictions", name), "predictions", 0, table)
    policies = {_NAMES.get(stage, stage): inputs[stage] for stage in POLICIES if stage in inputs}
    predictions |= _policies(settings, inputs["data"], policies, choice, out)
    encoder = build_encoder(settings.rejection.encoder, items["title"].to_pylist())
    sequences = tables.read(inputs["data"], "sequences")
    result = evaluate(
        predictions,
        examples,
        items,
        sequences,
        encoder,
        listed=settings.prompt.list_candidates,
        draws=settings.evaluation.draws,
        seed=settings.seed,
    )
    storage.write_json(storage.join(out, "evaluation.json"), result)
    return {"split": settings.evaluation.split, "rows": examples.num_rows, **result}


def judged(settings: Settings, data: str) -> pa.Table:
    """The examples that are judged."""
    return _rows(_choice(settings, data), data)


def _rows(choice: units.Choice, data: str) -> pa.Table:
    return pa.concat_tables([choice.rows(part) for part in tables.parts(data, "examples")])


def _choice(settings: Settings, data: str) -> units.Choice:
    # A sample is fixed by data.seed: all training seeds share it.
    return units.choose(
        data, {settings.evaluation.split: settings.evaluation.examples}, settings.data.seed, "evaluation"
    )


def _oracle(folder: str, examples: pa.Table) -> pa.Table:
    from rosepo_ray.evaluation.ranking import rank
    from rosepo_ray.oracle import store

    rows = examples.select(["example_id", "user_id", "history", "candidates"]).to_pylist()
    scores, _ = store.load(folder).score(
        [row["user_id"] for row in rows], [row["history"] for row in rows], [row["candidates"] for row in rows]
    )
    out = []
    for row, values in zip(rows, scores, strict=True):
        ranked, ordered = rank(row["example_id"], row["candidates"], values)
        out.append(_prediction(row, ranked, ordered.tolist(), None, None))
    return tables.from_rows("predictions", out)


def _prediction(
    row: dict[str, Any], ranked: list[str], scores: list[float], generated: str | None, outcome: str | None
) -> dict[str, Any]:
    return {
        "example_id": row["example_id"],
        "user_id": row["user_id"],
        "ranked": ranked,
        "scores": scores,
        "generated": generated,
        "outcome": outcome,
    }


def _policies(
    settings: Settings, data: str, policies: dict[str, str], choice: units.Choice, out: str
) -> dict[str, pa.Table]:
    """Ray Data actors go through model after model, holding one policy at a time; units stored before are kept."""
    parts = tables.parts(data, "examples")
    folders = {model: storage.join(out, "predictions", model) for model in policies}
    cut = units.plan(data, choice)
    planned = [replace(unit, key=model) for model in policies for unit in cut]

    def read(unit: units.Unit) -> pa.Table:
        return choice.rows(parts[unit.part])[unit.start : unit.stop]

    arguments = (settings, data, policies)
    rows = units.complete(
        settings, "evaluate", planned, read, Evaluator, arguments, "predictions", lambda unit: folders[unit.key]
    )
    found = {model: tables.read(folder, "predictions") for model, folder in folders.items()}
    for model, table in found.items():
        if table.num_rows * len(policies) != rows:
            raise RosepoError(
                f"{model} answered {table.num_rows} of {rows // len(policies)} rows; remove {out} and run again"
            )
    return found


class Evaluator:
    """The actor: ranks candidates and writes freely with the policy that a unit names."""

    def __init__(self, settings: Settings, data: str, policies: dict[str, str]) -> None:
        import torch

        from rosepo_ray.evaluation.outcomes import TitleIndex

        torch.set_num_threads(max(1, cluster.cores() // settings.cluster.actors))
        self.settings, self.policies = settings, policies
        items = tables.read(data, "items", ["item_id", "title"])
        self.title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        self.titles = TitleIndex(self.title_of)
        self.model = ""

    def __call__(self, batch: pa.Table, key: str) -> pa.Table:
        self._hold(key)
        return tables.from_rows("predictions", self._answer(batch.to_pylist()))

    def _hold(self, model: str) -> None:
        from rosepo_ray.policy import store
        from rosepo_ray.policy.generation import longest_title

        if model != self.model:
            self.policy: Any = None  # the old one goes before the new one comes
            with storage.local_folder(storage.join(self.policies[model], "model")) as folder:
                self.policy = store.load(folder, "cuda" if self.settings.cluster.use_gpu else "cpu")
            self.model = model
            self.longest = longest_title(self.policy, list(self.title_of.values()))

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from rosepo_ray.evaluation.ranking import rank
        from rosepo_ray.policy.generation import generate
        from rosepo_ray.policy.prompts import Request
        from rosepo_ray.policy.scoring import score

        requests = []
        for row in rows:
            candidates = [self.title_of[item] for item in row["candidates"]]
            requests.append(Request([self.title_of[item] for item in row["history"]], candidates, candidates))
        logps = score(self.policy, requests, self.settings.evaluation.batch)
        texts: list[str | None] = [None] * len(rows)
        if self.settings.evaluation.generate:
            texts = list(generate(self.policy, requests, self.settings.evaluation.batch, self.longest))
        out = []
        for row, values, text in zip(rows, logps, texts, strict=True):
            ranked, ordered = rank(row["example_id"], row["candidates"], values)
            outcome = None if text is None else self.titles.outcome(text)[0]
            out.append(_prediction(row, ranked, ordered.tolist(), text, outcome))
        return out
