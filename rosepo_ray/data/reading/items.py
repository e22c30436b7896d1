"""The items file: every item with its title, checked, sorted by item id. The catalogue is small enough for memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.data import Columns
from rosepo_ray.data.reading import parse_columns
from rosepo_ray.data.reading.files import SourceFile
from rosepo_ray.data.reading.readers import Wanted, explained, read
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import schemas


def read_items(
    files: Sequence[SourceFile], columns: Columns, *, genres: str = "genres", separator: str = "|"
) -> pa.Table:
    """Schema `items` sorted by item id, popularity 0. Equal titles stay apart: the id tells items, not the title.

    `genres` is an optional column, a list or text divided by `separator`, and null where it is neither. Raises
    BadInput for a missing column, an item without id or title, ids that come twice or that floats have lost, and where
    there is no item at all.
    """
    wanted = [
        Wanted("item", columns.item, "--data.columns.item"),
        Wanted("title", columns.title, "--data.columns.title"),
        Wanted("genres", genres, "", required=False),
    ]
    parts = []
    for file in files:
        for batch in read(file, wanted):
            if batch.broken:
                first = batch.broken[0]
                raise BadInput(
                    f"data row {first.row + 1} of {file.path} {first.reason}; mend the file, an item must not be lost"
                )
            if inexact := int(np.count_nonzero(parse_columns.inexact(batch.table.column("item")))):
                raise BadInput(
                    f"{inexact} item ids in {file.path} are floats so large that they cannot be told apart; store the "
                    "column as integers or text"
                )
            with explained(file):
                parts.append(_part(batch.table, batch.untyped, separator))
    where = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more files"
    if not parts:
        raise BadInput(f"{where} holds no items; give a file with an item id and a title in each row")
    table = pa.concat_tables(parts)
    nameless = int(pc.sum(pc.is_null(table["item_id"])).as_py())
    if nameless:
        raise BadInput(f"{nameless} of {table.num_rows} items in {where} have no id; give each one an id")
    untitled = table.filter(pc.equal(pc.fill_null(table["title"], ""), ""))
    if untitled.num_rows:
        raise BadInput(
            f"{untitled.num_rows} of {table.num_rows} items in {where} have no title, the first is "
            f"'{untitled['item_id'][0]}'; give each one a title, or name another column with --data.columns.title"
        )
    table = table.sort_by("item_id")
    ids = table["item_id"].combine_chunks()
    twice = np.flatnonzero(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False))
    if len(twice):
        raise BadInput(
            f"{len(twice)} item ids come more than once in {where}, the first is '{ids[int(twice[0])]}'; "
            "keep one row for each item"
        )
    return table


def _part(table: pa.Table, untyped: bool, separator: str) -> pa.Table:
    size = table.num_rows
    titles = parse_columns.flat(table.column("title"))
    genres: pa.Array = pa.nulls(size, pa.list_(pa.string()))
    if "genres" in table.column_names:
        given = parse_columns.flat(table.column("genres"))
        # They are of use but not needed: a column of another kind that happens to have this name is passed over.
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if pa.types.is_list(given.type) or pa.types.is_large_list(given.type):
                found = pc.cast(given, pa.list_(pa.string()))
            else:
                found = pc.split_pattern(pc.cast(given, pa.string()), separator)
            found.validate(full=True)  # Parquet may hold text that is no UTF-8
            genres = found
    columns = {
        "item_id": parse_columns.ids(table.column("item"), untyped),
        "title": pc.utf8_trim_whitespace(pc.cast(titles, pa.string())),
        "genres": genres,
        "popularity": pa.array(np.zeros(size, np.int64)),
    }
    return pa.table(columns, schema=schemas.SCHEMAS["items"])
