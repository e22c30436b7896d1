"""The items file: every item with its title, checked, sorted by item id. The catalogue is small enough for memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.data import Columns
from rosepo_ray.data.reading import parse_columns
from rosepo_ray.data.reading.files import SourceFile
from rosepo_ray.data.reading.readers import Batch, Wanted, explained, read
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import schemas

KINDS = ("fields", "json", "item", "title", "twice")
"""What can be wrong with an item: it cannot be taken apart (the first two), it has no id or title, or an earlier row
gives its id another title."""

_Bad = tuple[int, int, str, str]
"""File, data row in it from 0, kind, and what is wrong."""


@dataclass(frozen=True)
class ItemRows:
    """Schema `items`, the rows that were left out (schema `dropped`), how many by kind, and how many rows only said
    again what an earlier one had said."""

    items: pa.Table
    dropped: pa.Table
    counts: dict[str, int]
    repeated: int


def read_items(
    files: Sequence[SourceFile],
    columns: Columns,
    *,
    genres: str = "genres",
    separator: str = "|",
    on_bad_item: Literal["fail", "drop"] = "fail",
    missing: Sequence[str] = (),
) -> ItemRows:
    """The items sorted by item id, popularity 0. Equal titles stay apart: the id tells items, not the title. A row with
    id and title of an earlier one is passed over.

    `genres` is an optional column, a list or text divided by `separator`, and null where it is neither. `missing` are
    words that stand for no id. Raises BadInput for a missing column, a bad item unless they are dropped, and where no
    item is left.
    """
    wanted = [
        Wanted("item", columns.catalogue_item or columns.item, "--data.columns.catalogue_item"),
        Wanted("title", columns.title, "--data.columns.title"),
        Wanted("genres", genres, "", required=False),
    ]
    parts, bad = [_ROWS.empty_table()], list[_Bad]()
    for number, file in enumerate(files):
        for batch in read(file, wanted):
            bad += [(number, left.row, left.kind, left.reason) for left in batch.broken]
            with explained(file):
                parts.append(_part(batch, number, separator, missing))
    rows = pa.concat_tables(parts)
    total = rows.num_rows + len(bad)
    rows, unusable = _usable(rows)
    rows, twice, repeated = _told_once(rows)
    bad = sorted([*bad, *unusable, *twice])
    if bad and on_bad_item == "fail":
        number, row, _, reason = bad[0]
        raise BadInput(
            f"{len(bad)} of {total} items cannot be used; the first is data row {row + 1} of {files[number].path}, "
            f"which {reason}; mend them, name other columns with --data.columns.*, or leave them out with "
            "--data.on_bad_item drop"
        )
    if not rows.num_rows:
        left = f", since its {len(bad)} rows cannot be used: the first {bad[0][3]}" if bad else ""
        raise BadInput(f"{files[0].path} holds no items{left}; give a file with an item id and a title in each row")
    listed = [{"file": files[number].path, "row": row + 1, "reason": reason} for number, row, _, reason in bad]
    return ItemRows(
        rows.select(schemas.SCHEMAS["items"].names).sort_by("item_id"),
        pa.Table.from_pylist(listed, schema=schemas.SCHEMAS["dropped"]),
        {kind: sum(found == kind for *_, found, _ in bad) for kind in KINDS},
        repeated,
    )


_ROWS = pa.schema([*schemas.SCHEMAS["items"], ("file", pa.int64()), ("row", pa.int64()), ("inexact", pa.bool_())])


def _usable(rows: pa.Table) -> tuple[pa.Table, list[_Bad]]:
    """The rows with an id and a title, and the others."""
    problems = [
        (
            rows["inexact"],
            "item",
            "has no id that can be told apart from others, since floats do not hold so large ones",
        ),
        (pc.is_null(rows["item_id"]), "item", "has no id"),
        (pc.equal(pc.fill_null(rows["title"], ""), ""), "title", "has no title"),
    ]
    bad: dict[int, _Bad] = {}
    for mask, kind, what in problems:
        for place in np.flatnonzero(mask.to_numpy()).tolist():
            of = f" (item '{rows['item_id'][place]}')" if kind == "title" else ""
            bad.setdefault(place, (rows["file"][place].as_py(), rows["row"][place].as_py(), kind, what + of))
    good = np.ones(rows.num_rows, bool)
    good[list(bad)] = False
    return rows.filter(pa.array(good)), list(bad.values())


def _told_once(rows: pa.Table) -> tuple[pa.Table, list[_Bad], int]:
    """The first row of each id, the later ones that give another title, and how many give the same."""
    codes = pc.dictionary_encode(rows["item_id"].combine_chunks()).indices.to_numpy()
    first = np.unique(codes, return_index=True)[1][codes]  # the codes are numbered as the ids appear
    again = first != np.arange(len(first))
    titles = rows["title"].combine_chunks()
    other = again & pc.not_equal(titles, titles.take(pa.array(first))).to_numpy(zero_copy_only=False)
    bad = []
    for place in np.flatnonzero(other).tolist():
        row = rows.slice(place, 1).to_pylist()[0]
        said = (
            f"calls item '{row['item_id']}' {row['title'][:60]!r}, which was {titles[int(first[place])].as_py()[:60]!r}"
        )
        bad.append((row["file"], row["row"], "twice", said))
    return rows.filter(pa.array(~again)), bad, int(np.count_nonzero(again & ~other))


def _part(batch: Batch, number: int, separator: str, missing: Sequence[str]) -> pa.Table:
    table, size = batch.table, batch.table.num_rows
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
        "item_id": parse_columns.ids(table.column("item"), batch.untyped, missing),
        "title": pc.utf8_trim_whitespace(pc.cast(titles, pa.string())),
        "genres": genres,
        "popularity": pa.array(np.zeros(size, np.int64)),
        "file": pa.array(np.full(size, number)),
        "row": pa.array(batch.rows),
        "inexact": pa.array(parse_columns.inexact(table.column("item"))),
    }
    return pa.table(columns, schema=_ROWS)
