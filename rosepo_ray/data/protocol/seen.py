"""What a user had taken before the position of an example, which a ranking of the whole catalogue leaves out."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def seen_items(examples: pa.Table, taken: pa.Table) -> list[list[str]]:
    """Of each row of `examples` the items that it leaves out, oldest first; `taken` holds its user."""
    mine = taken.filter(pc.is_in(taken["user_id"], value_set=examples["user_id"].combine_chunks().unique()))
    whole = dict(zip(mine["user_id"].to_pylist(), mine["whole"].to_pylist(), strict=True))
    rows = zip(examples["user_id"].to_pylist(), examples["seen"].to_pylist(), strict=True)
    return [whole[user][:count] for user, count in rows]
