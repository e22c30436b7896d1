"""Rejected samples: Ray Data actors score each example once with the SFT policy, which gives the policy's own mistake
and the reference log-probabilities of chosen and rejected in the same pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.on_ray import cluster, scoring
from rosepo_ray.rejection.base import NothingToReject
from rosepo_ray.storage import tables

_MOST_PASSED_OVER = 0.1
"""Share of the examples that may have nothing to reject."""


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Write `pairs` for the training examples (or a hashed subset of them) and a hashed subset of the validation ones.

    Examples and exclusions are read part by part (they are partitioned by user alike) and never all at once. Units that
    a killed run had stored are kept. Examples that have nothing to reject are passed over and counted.
    """
    limits = {"train": settings.rejection.examples, "validation": settings.rejection.validation_examples}
    choice = scoring.choose(inputs["data"], limits, settings.seed, "pairs")
    planned = scoring.plan(inputs["data"], choice)
    examples, taken = (tables.parts(inputs["data"], name) for name in ("examples", "taken"))

    def read(unit: scoring.Unit) -> pa.Table:
        return _with_exclusions(choice.rows(examples[unit.part])[unit.start : unit.stop], taken[unit.part])

    arguments = (settings, inputs["data"], inputs["sft"])
    rows = scoring.complete(
        settings, "reject", planned, read, Rejector, arguments, "pairs", lambda unit: out, _with_rejected
    )
    if (stored := len(tables.parts(out, "pairs"))) != len(planned):
        raise RosepoError(f"{out} holds {stored} of {len(planned)} units; remove this folder and run again")
    return _counted(out, rows, settings.rejection.k)


def _with_rejected(pairs: pa.Table) -> pa.Table:
    return pairs.filter(pc.greater(pc.list_value_length(pairs["rejected"]), 0))


def _counted(out: str, rows: int, k: int) -> dict[str, Any]:
    made = tables.read(out, "pairs", ["split", "strategy"])
    counts = {"train": 0, "validation": 0} | _count(made["split"])
    passed_over = rows - made.num_rows
    if passed_over > _MOST_PASSED_OVER * rows:
        raise BadInput(
            f"{passed_over} of {rows} examples have no {k} distinct items that could be rejected beside the target, "
            "what the user took and items with the same titles; lower rejection.k, raise data.candidates, choose "
            "another rejection.strategy, or give the items titles of their own"
        )
    if not counts["train"] or not counts["validation"]:
        raise BadInput(
            f"there are {counts['train']} training and {counts['validation']} validation pairs; give more data"
        )
    return {"pairs": counts, "strategies": _count(pc.list_flatten(made["strategy"])), "passed_over": passed_over}


def _count(values: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _with_exclusions(rows: pa.Table, taken: str) -> pa.Table:
    """`rows` with `excluded`: items that must not be drawn as rejected."""
    table = tables.read_part(taken, "taken")
    here = table.filter(pc.is_in(table["user_id"], value_set=rows["user_id"].combine_chunks().unique()))
    touched = {row["user_id"]: row for row in here.to_pylist()}
    # Training negatives may not avoid the future (a leak); validation ones avoid the whole log.
    excluded = [
        touched[user]["training" if split == "train" else "whole"]
        for user, split in zip(rows["user_id"].to_pylist(), rows["split"].to_pylist(), strict=True)
    ]
    return rows.append_column("excluded", pa.array(excluded, pa.list_(pa.string())))


def _unless_nothing(pick: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    """The picks of a row; none where it has too few items to reject, so that it is passed over."""
    try:
        return pick(*arguments)
    except NothingToReject:
        return []


class Rejector:
    """The actor: proposes from catalogue pools, scores once, completes from the policy's scores."""

    def __init__(self, settings: Settings, data: str, sft: str) -> None:
        import torch

        from rosepo_ray.catalogue.items import Catalogue
        from rosepo_ray.policy import store
        from rosepo_ray.rejection import build

        torch.set_num_threads(max(1, cluster.cores() // settings.cluster.actors))
        self.settings = settings
        items = tables.read(data, "items")
        self.title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        self.strategy = build(settings.rejection.strategy, Catalogue.from_table(items), settings.rejection.encoder)
        with storage.local_folder(storage.join(sft, "model")) as folder:
            self.policy = store.load(folder, "cuda" if settings.cluster.use_gpu else "cpu")

    def __call__(self, batch: pa.Table, key: str) -> pa.Table:
        from rosepo_ray.policy.prompts import Request
        from rosepo_ray.policy.scoring import score
        from rosepo_ray.rejection import RejectionRow

        rows = batch.to_pylist()
        k, seed = self.settings.rejection.k, self.settings.seed
        framed = [
            RejectionRow(
                r["example_id"], r["user_id"], r["history"], r["target"], r["candidates"], frozenset(r["excluded"])
            )
            for r in rows
        ]
        proposed = [_unless_nothing(self.strategy.propose, row, k, seed) for row in framed]
        pool = [list(row["candidates"]) if self.strategy.needs_scores else [row["target"]] for row in rows]
        for items, waiting in zip(pool, proposed, strict=True):
            items += [pick.item_id for pick in waiting if pick is not None and pick.item_id not in items]
        requests = [
            Request(self._titles(row["history"]), self._titles(items), self._titles(row["candidates"]))
            for row, items in zip(rows, pool, strict=True)
        ]
        logps = score(self.policy, requests, self.settings.evaluation.batch, self.settings.evaluation.tokens)
        out = []
        for row, frame, items, waiting, values in zip(rows, framed, pool, proposed, logps, strict=True):
            logp = dict(zip(items, values.tolist(), strict=True))
            picks = [pick for pick in waiting if pick is not None]  # those that needed no scores
            if len(picks) < len(waiting):
                of_candidates = np.array([logp[c] for c in row["candidates"]])
                picks = _unless_nothing(self.strategy.complete, frame, waiting, of_candidates, seed)
            out.append(self._pair(row, picks, logp))
        return tables.from_rows("pairs", out)

    def _titles(self, items: list[str]) -> list[str]:
        return [self.title_of[item] for item in items]

    def _pair(self, row: dict[str, Any], picks: list[Any], logp: dict[str, float]) -> dict[str, Any]:
        rejected = [pick.item_id for pick in picks]
        return {
            **{name: row[name] for name in ("example_id", "user_id", "split", "history", "candidates")},
            "chosen": row["target"],
            "rejected": rejected,
            "rejected_text": self._titles(rejected),
            "strategy": [pick.strategy for pick in picks],
            "ref_chosen_logp": logp[row["target"]],
            "ref_rejected_logps": [logp[item] for item in rejected],
        }
