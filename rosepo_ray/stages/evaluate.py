"""Evaluation: every model ranks the candidates of every row, and each policy writes a title freely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray import storage, tables
from rosepo_ray.config import Settings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.stages import cluster, progress, quiet

POLICIES = ("sft", "sft_longer", "align")
_NAMES = {"align": "aligned"}
_BATCH = 256


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Leaves `predictions/MODEL/` for each model and returns the metrics (see evaluation.metrics.evaluate)."""
    from rosepo_ray.evaluation import controls
    from rosepo_ray.evaluation.metrics import evaluate
    from rosepo_ray.rejection.text import build_encoder

    examples = tables.read(inputs["data"], "examples", split=settings.evaluation.split)
    if not examples.num_rows:
        raise BadInput(f"the {settings.evaluation.split} split has no examples, so nothing can be evaluated")
    items = tables.read(inputs["data"], "items")
    predictions = {"popular": controls.popular(examples, items)}
    if settings.oracle.type != "constant":
        predictions["oracle"] = _oracle(storage.join(inputs["calibrate"], "oracle"), examples)
    for name, table in predictions.items():
        tables.write_part(storage.join(out, "predictions", name), "predictions", 0, table)
    policies = {_NAMES.get(stage, stage): inputs[stage] for stage in POLICIES if stage in inputs}
    predictions |= _policies(settings, inputs["data"], policies, examples.num_rows, out)
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


def _policies(settings: Settings, data: str, policies: dict[str, str], rows: int, out: str) -> dict[str, pa.Table]:
    """Ray Data actors go through model after model, holding one policy at a time."""
    import ray

    split = settings.evaluation.split
    parts = tables.parts(data, "examples")
    tasks = [{"model": model, "part": part} for model in policies for part in parts]

    def read(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        table = tables.read_part(task["part"], "examples")
        for row in table.filter(pc.equal(table["split"], split)).to_pylist():
            yield {"model": task["model"], **row}

    found: dict[str, list[pa.Table]] = {model: [] for model in policies}
    line, done = progress.Line("evaluate", rows * len(policies)), 0
    with quiet.data_context(slow_tasks=True):
        stream = (
            ray.data.from_items(tasks, override_num_blocks=len(tasks))
            .flat_map(read, num_cpus=cluster.READ_CPUS)
            .map_batches(
                Evaluator,
                fn_constructor_args=(settings, data, policies),
                batch_size=_BATCH,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=settings.cluster.actors),
                num_cpus=cluster.ACTOR_CPUS,
                num_gpus=int(settings.cluster.use_gpu),
            )
        )
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for model in policies:
                part = batch.filter(pc.equal(batch["model"], model)).drop_columns(["model"])
                if part.num_rows:
                    folder = storage.join(out, "predictions", model)
                    tables.write_part(folder, "predictions", len(found[model]), part)
                    found[model].append(part)
            done += batch.num_rows
            line.update(done)
    line.close()
    for model, pieces in found.items():
        if (count := sum(piece.num_rows for piece in pieces)) != rows:
            raise RosepoError(f"{model} answered {count} of {rows} rows; run again")
    return {model: tables.read(storage.join(out, "predictions", model), "predictions") for model in policies}


class Evaluator:
    """The actor: ranks candidates and writes freely with the policy that a row names."""

    def __init__(self, settings: Settings, data: str, policies: dict[str, str]) -> None:
        import torch

        from rosepo_ray.evaluation.outcomes import TitleIndex

        torch.set_num_threads(max(1, cluster.cores() // settings.cluster.actors))
        self.settings, self.policies = settings, policies
        items = tables.read(data, "items", ["item_id", "title"])
        self.title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        self.titles = TitleIndex(self.title_of)
        self.model = ""

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        answers = []
        for model in dict.fromkeys(row["model"] for row in rows):
            mine = [row for row in rows if row["model"] == model]
            self._hold(model)
            table = tables.from_rows("predictions", self._answer(mine))
            answers.append(table.append_column("model", pa.array([model] * len(mine))))
        return pa.concat_tables(answers)

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
