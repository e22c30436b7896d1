"""What a user took: before the position of an example a ranking of the whole catalogue leaves it out, and it is never
rejected."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def seen_items(examples: pa.Table, taken: pa.Table) -> list[list[str]]:
    """Of each row of `examples` the items that it leaves out, oldest first; `taken` holds its user."""
    mine = taken.filter(pc.is_in(taken["user_id"], value_set=examples["user_id"].combine_chunks().unique()))
    whole = dict(zip(mine["user_id"].to_pylist(), mine["whole"].to_pylist(), strict=True))
    rows = zip(examples["user_id"].to_pylist(), examples["seen"].to_pylist(), strict=True)
    return [whole[user][:count] for user, count in rows]


def with_exclusions(rows: pa.Table, taken: pa.Table) -> pa.Table:
    """`rows` of examples with `excluded`: items that must not be drawn as rejected."""
    mine = taken.filter(pc.is_in(taken["user_id"], value_set=rows["user_id"].combine_chunks().unique()))
    touched = {row["user_id"]: row for row in mine.to_pylist()}
    # Training negatives may not avoid the future (a leak); validation ones avoid the whole log.
    excluded = [
        touched[user]["training" if split == "train" else "whole"]
        for user, split in zip(rows["user_id"].to_pylist(), rows["split"].to_pylist(), strict=True)
    ]
    return rows.append_column("excluded", pa.array(excluded, pa.list_(pa.string())))
