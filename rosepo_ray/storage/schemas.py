"""The tables that cross a stage, as Arrow schemas; checked on every write and every read."""

from __future__ import annotations

import pyarrow as pa

from rosepo_ray.errors import RosepoError

_STRINGS = pa.list_(pa.string())
_FLOATS = pa.list_(pa.float32())

SCHEMAS: dict[str, pa.Schema] = {
    "interactions": pa.schema(
        [
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("timestamp", pa.int64()),
            ("rating", pa.float32()),
            ("row", pa.int64()),  # input row where the log is one file, else 0: the tie-break of equal timestamps
        ]
    ),
    "items": pa.schema(
        [
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("genres", _STRINGS),
            ("popularity", pa.int64()),  # interactions in the training split
        ]
    ),
    # Rows of log and items that could not be used (data.on_bad_row, data.on_bad_item drop). `row` counts the data rows
    # of the file from 1: the header and blank lines do not count, and a line break inside quotes ends no row.
    "dropped": pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]),
    # What a user took in the training split (after the rating filter), oldest first.
    "sequences": pa.schema([("user_id", pa.string()), ("items", _STRINGS)]),
    # Everything a user touched, each item once, oldest first, before any rating filter: what sampled negatives avoid.
    "taken": pa.schema([("user_id", pa.string()), ("training", _STRINGS), ("whole", _STRINGS)]),
    "examples": pa.schema(
        [
            ("example_id", pa.string()),  # user:position
            ("user_id", pa.string()),
            ("history", _STRINGS),  # oldest first
            ("target", pa.string()),
            ("candidates", _STRINGS),  # the target among them, shuffled by seed
            ("split", pa.string()),  # train | validation | test
            # A ranking of the whole catalogue leaves out the first so many of the user's `taken.whole`: what came
            # before the position. 0 where users take items again (data.repeats keep).
            ("seen", pa.int32()),
        ]
    ),
    "pairs": pa.schema(
        [
            ("example_id", pa.string()),
            ("user_id", pa.string()),
            ("split", pa.string()),  # train | validation
            ("history", _STRINGS),
            ("candidates", _STRINGS),
            ("chosen", pa.string()),
            ("rejected", _STRINGS),  # null where the rejected text is no item
            ("rejected_text", _STRINGS),
            ("strategy", _STRINGS),
            ("ref_chosen_logp", pa.float32()),
            ("ref_rejected_logps", _FLOATS),
        ]
    ),
    "smoothing": pa.schema(
        [
            ("example_id", pa.string()),
            ("rejected", _STRINGS),
            ("epsilon", _FLOATS),
            ("oracle_version", pa.string()),
            ("scores", _FLOATS),  # of chosen and rejected, NaN where a text is no item; null where nothing needs them
        ]
    ),
    "predictions": pa.schema(
        [
            ("example_id", pa.string()),
            ("user_id", pa.string()),
            ("ranked", _STRINGS),  # candidates, best first
            ("scores", _FLOATS),  # in the order of `ranked`
            ("generated", pa.string()),  # null where the model does not write text
            ("outcome", pa.string()),  # item | ambiguous | unknown; null as above
            ("top", _STRINGS),  # best items of the whole catalogue; null where it was not ranked
            ("top_scores", _FLOATS),  # in the order of `top`
            ("written_item", pa.string()),  # item written under the catalogue's constraint; null where not asked
        ]
    ),
}


def cast(name: str, table: pa.Table) -> pa.Table:
    """`table` with the columns and types of `SCHEMAS[name]`, in that order.

    Raises RosepoError when a column is missing, unknown or cannot be cast: a stage broke its contract.
    """
    schema = SCHEMAS[name]
    if set(table.column_names) != set(schema.names):
        raise RosepoError(
            f"table '{name}' has the columns {sorted(table.column_names)}, its schema wants {sorted(schema.names)}"
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RosepoError(f"table '{name}' does not fit its schema: {error}") from error
