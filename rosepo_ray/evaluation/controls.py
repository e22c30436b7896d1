"""Predictions of controls that are no language model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rosepo_ray import tables
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.ranking import rank


def popular(examples: pa.Table, items: pa.Table) -> pa.Table:
    """A `predictions` table of "most popular": candidates by training interactions, ties by hash.

    Raises:
        RosepoError: a candidate is not among the items.
    """
    counts = dict(zip(items.column("item_id").to_pylist(), items.column("popularity").to_pylist(), strict=True))
    rows = []
    for example in examples.select(["example_id", "user_id", "candidates"]).to_pylist():
        missing = [item for item in example["candidates"] if item not in counts]
        if missing:
            raise RosepoError(f"row {example['example_id']}: candidates {missing} are not in the items table")
        scores = np.array([counts[item] for item in example["candidates"]], dtype=np.float64)
        ranked, ordered = rank(example["example_id"], example["candidates"], scores)
        rows.append(
            {
                "example_id": example["example_id"],
                "user_id": example["user_id"],
                "ranked": ranked,
                "scores": ordered.tolist(),
                "generated": None,
                "outcome": None,
            }
        )
    return tables.from_rows("predictions", rows)
