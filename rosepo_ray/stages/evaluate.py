"""Evaluation: every model ranks the candidates of every row and, for some rows, the whole catalogue; each policy writes
a title freely."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.data.protocol.seen import seen_items
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.on_ray import cluster, scoring
from rosepo_ray.storage import tables

POLICIES = ("sft", "sft_longer", "align")
_NAMES = {"align": "aligned"}


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Leaves `predictions/MODEL/` for each model and returns the metrics (see evaluation.metrics.evaluate)."""
    from rosepo_ray.catalogue.encoders import build_encoder
    from rosepo_ray.evaluation import controls
    from rosepo_ray.evaluation.metrics import evaluate
    from rosepo_ray.oracle import store

    choice, ranked = _choices(settings, inputs["data"])
    examples = _rows(choice, inputs["data"])
    if not examples.num_rows:
        raise BadInput(f"the {settings.evaluation.split} split has no examples, so nothing can be evaluated")
    items = tables.read(inputs["data"], "items")
    seen = _seen(inputs["data"], ranked)
    predictions = {"popular": controls.popular(examples, items, seen)}
    if settings.oracle.type != "constant":
        scorer = store.load(storage.join(inputs["calibrate"], "oracle"))
        predictions["oracle"] = controls.oracle(scorer, examples, items, seen)
    for name, table in predictions.items():
        tables.write_part(storage.join(out, "predictions", name), "predictions", 0, table)
    policies = {_NAMES.get(stage, stage): inputs[stage] for stage in POLICIES if stage in inputs}
    predictions |= _policies(settings, inputs["data"], policies, choice, ranked, out)
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
    return _rows(_choices(settings, data)[0], data)


def _rows(choice: scoring.Choice, data: str) -> pa.Table:
    return pa.concat_tables([choice.rows(part) for part in tables.parts(data, "examples")])


def _choices(settings: Settings, data: str) -> tuple[scoring.Choice, scoring.Choice]:
    """The examples to judge, and those of them whose whole catalogue is ranked."""
    chosen = settings.evaluation
    ranked = 0 if settings.prompt.list_candidates else chosen.catalogue_examples
    if ranked is None or (chosen.examples is not None and chosen.examples < ranked):
        ranked = chosen.examples
    # A sample is fixed by data.seed, so all training seeds share it; the smaller sample lies within the larger.
    first, second = (
        scoring.choose(data, {chosen.split: limit}, settings.data.seed, "evaluation")
        for limit in (chosen.examples, ranked)
    )
    return first, second


def _seen(data: str, ranked: scoring.Choice) -> dict[str, list[str]]:
    """The examples whose whole catalogue is ranked, and what their rankings leave out."""
    found: dict[str, list[str]] = {}
    for part, taken in zip(tables.parts(data, "examples"), tables.parts(data, "taken"), strict=True):
        rows = ranked.rows(part)
        found |= zip(rows["example_id"].to_pylist(), seen_items(rows, tables.read_part(taken, "taken")), strict=True)
    return found


def _policies(
    settings: Settings, data: str, policies: dict[str, str], choice: scoring.Choice, ranked: scoring.Choice, out: str
) -> dict[str, pa.Table]:
    """Ray Data actors go through model after model, holding one policy at a time; units stored before are kept."""
    parts, taken = tables.parts(data, "examples"), tables.parts(data, "taken")
    folders = {model: storage.join(out, "predictions", model) for model in policies}
    cut = scoring.plan(data, choice)
    planned = [replace(unit, key=model) for model in policies for unit in cut]

    def read(unit: scoring.Unit) -> pa.Table:
        rows = choice.rows(parts[unit.part])[unit.start : unit.stop]
        items = seen_items(rows, tables.read_part(taken[unit.part], "taken", ["user_id", "whole"]))
        left_out = pa.array(items, pa.list_(pa.string()), mask=~ranked.mask(rows))
        return rows.append_column("left_out", left_out)  # null where the catalogue is not ranked

    arguments = (settings, data, policies)
    rows = scoring.complete(
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
    """The actor: ranks candidates and the catalogue, and writes freely, with the policy that a unit names."""

    def __init__(self, settings: Settings, data: str, policies: dict[str, str]) -> None:
        import torch

        from rosepo_ray.catalogue.title_index import TitleIndex

        torch.set_num_threads(max(1, cluster.cores() // settings.cluster.actors))
        self.settings, self.policies = settings, policies
        items = tables.read(data, "items", ["item_id", "title"])
        self.item_ids, self.names = items["item_id"].to_pylist(), items["title"].to_pylist()
        self.title_of = dict(zip(self.item_ids, self.names, strict=True))
        self.place_of = {item: place for place, item in enumerate(self.item_ids)}
        self.titles = TitleIndex(self.title_of)
        self.model = ""

    def __call__(self, batch: pa.Table, key: str) -> pa.Table:
        self._hold(key)
        return tables.from_rows("predictions", self._answer(batch.to_pylist()))

    def _hold(self, model: str) -> None:
        from rosepo_ray.policy import store
        from rosepo_ray.policy.search.title_trie import TitleTrie

        if model != self.model:
            self.policy: Any = None  # the old one goes before the new one comes
            with storage.local_folder(storage.join(self.policies[model], "model")) as folder:
                self.policy = store.load(folder, "cuda" if self.settings.cluster.use_gpu else "cpu")
            self.model = model
            self.trie = TitleTrie.build(self.policy.prompter, self.names, self.item_ids)

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from rosepo_ray.evaluation.controls import prediction
        from rosepo_ray.policy.generation import generate
        from rosepo_ray.policy.prompts import Request
        from rosepo_ray.policy.scoring import score

        chosen = self.settings.evaluation
        requests = []
        for row in rows:
            candidates = [self.title_of[item] for item in row["candidates"]]
            requests.append(Request([self.title_of[item] for item in row["history"]], candidates, candidates))
        logps = score(self.policy, requests, chosen.batch, chosen.tokens)
        out = [prediction(row, values) for row, values in zip(rows, logps, strict=True)]
        if chosen.generate:
            longest = self.trie.longest
            texts = generate(
                self.policy, requests, chosen.batch, longest, tokens=chosen.tokens, cache_mib=chosen.cache_mib
            )
            for answer, text in zip(out, texts, strict=True):
                answer |= {"generated": text, "outcome": self.titles.outcome(text)[0]}
        ranked = [number for number, row in enumerate(rows) if row["left_out"] is not None]
        if ranked:
            found = self._rank_catalogue([rows[n] for n in ranked], [requests[n] for n in ranked])
            for number, answer in zip(ranked, found, strict=True):
                out[number] |= answer
        return out

    def _rank_catalogue(self, rows: list[dict[str, Any]], requests: list[Any]) -> list[dict[str, Any]]:
        from rosepo_ray.evaluation.whole_catalogue import TOP
        from rosepo_ray.policy.search.constrained import generate_items
        from rosepo_ray.policy.search.ranking import top_k

        chosen = self.settings.evaluation
        row_ids = [row["example_id"] for row in rows]
        prompts = [self.policy.prompter.prompt_ids(request) for request in requests]
        how: dict[str, Any] = {
            "tokens": chosen.tokens,
            "cache_mib": chosen.cache_mib,
            "left_out": [[self.place_of[item] for item in row["left_out"]] for row in rows],
        }
        best = top_k(self.policy, self.trie, prompts, TOP, row_ids, batch=chosen.batch, **how)
        out: list[dict[str, Any]] = [
            {"top": [self.item_ids[item] for item in found.items], "top_scores": found.scores.tolist()}
            for found in best
        ]
        if chosen.beams:
            written = generate_items(self.policy, self.trie, prompts, row_ids, chosen.batch, chosen.beams, **how)
            for answer, item in zip(out, written, strict=True):
                answer["written_item"] = self.item_ids[item]
        return out
