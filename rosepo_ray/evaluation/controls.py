"""Predictions of controls that are no language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.ranking import rank
from rosepo_ray.evaluation.whole_catalogue import TOP
from rosepo_ray.oracle.protocol import Oracle
from rosepo_ray.storage import tables

_ROWS_AT_ONCE = 16


def popular(examples: pa.Table, items: pa.Table, seen: Mapping[str, Sequence[str]]) -> pa.Table:
    """A `predictions` table of "most popular": by training interactions, ties by hash. For the examples whose id is in
    `seen` the whole catalogue is ranked too, without the items that stand there.

    Raises:
        RosepoError: a candidate is not among the items.
    """
    ids, popularity = items.column("item_id").to_pylist(), items.column("popularity").to_numpy().astype(np.float64)
    counts = dict(zip(ids, popularity, strict=True))
    place_of = {item: place for place, item in enumerate(ids)}
    rows = []
    for example in examples.select(["example_id", "user_id", "candidates"]).to_pylist():
        missing = [item for item in example["candidates"] if item not in counts]
        if missing:
            raise RosepoError(f"row {example['example_id']}: candidates {missing} are not in the items table")
        row = prediction(example, np.array([counts[item] for item in example["candidates"]]))
        if (without := seen.get(row["example_id"])) is not None:
            row |= top(row["example_id"], ids, popularity, [place_of[item] for item in without])
        rows.append(row)
    return tables.from_rows("predictions", rows)


def oracle(scorer: Oracle, examples: pa.Table, items: pa.Table, seen: Mapping[str, Sequence[str]]) -> pa.Table:
    """The oracle's `predictions`, likewise."""
    ids = items.column("item_id").to_pylist()
    place_of = {item: place for place, item in enumerate(ids)}
    judged = examples.select(["example_id", "user_id", "history", "candidates"]).to_pylist()
    rows = [
        prediction(row, values)
        for row, values in zip(judged, _scores(scorer, judged, [row["candidates"] for row in judged]), strict=True)
    ]
    chosen = [number for number, row in enumerate(judged) if row["example_id"] in seen]
    for start in range(0, len(chosen), _ROWS_AT_ONCE):
        here = chosen[start : start + _ROWS_AT_ONCE]
        for number, values in zip(here, _scores(scorer, [judged[n] for n in here], [ids] * len(here)), strict=True):
            row_id = judged[number]["example_id"]
            rows[number] |= top(row_id, ids, values, [place_of[item] for item in seen[row_id]])
    return tables.from_rows("predictions", rows)


def _scores(scorer: Oracle, rows: list[dict[str, Any]], items: Sequence[Sequence[str]]) -> list[np.ndarray]:
    return scorer.score([row["user_id"] for row in rows], [row["history"] for row in rows], items)[0]


def prediction(example: dict[str, Any], scores: np.ndarray) -> dict[str, Any]:
    """The row of `predictions` that ranks the candidates by `scores`."""
    ranked, ordered = rank(example["example_id"], example["candidates"], scores)
    names = ("example_id", "user_id")
    return {**{name: example[name] for name in names}, "ranked": ranked, "scores": ordered.tolist()}


def top(example_id: str, items: Sequence[str], scores: np.ndarray, left_out: Sequence[int]) -> dict[str, Any]:
    """The columns of `predictions` that rank the whole catalogue by `scores`, one per item, without some positions."""
    found, ordered = rank(example_id, items, scores, TOP, left_out)
    return {"top": found, "top_scores": ordered.tolist()}
