"""Rows of an interaction log in one form: the schema `interactions`, beside the rows that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.data import Columns
from rosepo_ray.data.reading import parse_columns
from rosepo_ray.data.reading.readers import Batch, Wanted
from rosepo_ray.storage import schemas

KINDS = ("fields", "json", "user", "item", "time", "rating")
"""What can be wrong with a row: it cannot be taken apart (the first two), or this column has no value of use."""


@dataclass(frozen=True)
class LogRows:
    """Rows of one file: the readable ones, how each of their times was written (`values.times`), and the others."""

    interactions: pa.Table
    time_kinds: np.ndarray
    bad_rows: np.ndarray
    """Data row numbers in the file, from 0."""
    bad_kinds: list[int]
    """One per bad row: index into KINDS."""
    reasons: list[str]
    """One per bad row: what is wrong with it."""


def wanted(columns: Columns, min_rating: float | None) -> list[Wanted]:
    """The columns to read. A rating is needed for a filter, or when its column was named on purpose."""
    asked = min_rating is not None or (columns.rating is not None and columns.rating != Columns().rating)
    found = [
        Wanted("user", columns.user, "--data.columns.user"),
        Wanted("item", columns.item, "--data.columns.item"),
    ]
    if columns.time is not None:
        option = "--data.columns.time (null: the order of the rows counts)"
        found.append(Wanted("time", columns.time, option))
    if columns.rating is not None:
        found.append(Wanted("rating", columns.rating, "--data.columns.rating", required=asked))
    return found


def normalise(
    batch: Batch, *, timed: bool, rating_needed: bool, missing: Sequence[str] = (), time_format: str | None = None
) -> LogRows:
    """`batch` with the roles user, item, time, rating as `interactions` (`row` is the data row in the file).

    Without a time column (`timed` false) the row number is the time. An empty rating is null unless `rating_needed`.
    `missing` are words that stand for no id, `time_format` says how times are written.
    """
    table, size, rows = batch.table, batch.table.num_rows, batch.rows
    users = parse_columns.ids(table.column("user"), batch.untyped, missing)
    items = parse_columns.ids(table.column("item"), batch.untyped, missing)
    problems: list[_Problem] = []
    for role, ids in (("user", users), ("item", items)):
        what = f"has no {role} id that can be told apart from others, since floats do not hold so large ones exactly"
        problems.append((parse_columns.inexact(table.column(role)), role, what, table.column(role)))
        problems.append((_null(ids), role, f"has no {role} id", table.column(role)))
    if timed:
        times, kinds = parse_columns.times(table.column("time"), time_format)
        what = "has a time that cannot be told apart from others, since floats of few bits do not hold so large ones"
        problems.append((parse_columns.inexact_times(table.column("time")), "time", what, table.column("time")))
        what = "has a time that is neither a number nor an ISO 8601 date"
        what = f"has a time that does not follow data.time_format {time_format}" if time_format else what
        problems.append((_null(times), "time", what, table.column("time")))
    else:
        times, kinds = pa.array(rows), np.full(size, parse_columns.INTEGER, np.uint8)
    ratings = pa.nulls(size, pa.float32())
    if "rating" in table.column_names:
        numbers, unreadable = parse_columns.numbers(table.column("rating"))
        ratings = pc.cast(numbers, pa.float32(), safe=False)
        problems.append((unreadable, "rating", "has a rating that is no number", table.column("rating")))
        if rating_needed:
            problems.append((_null(numbers) & ~unreadable, "rating", "has no rating", table.column("rating")))
    interactions = pa.table(
        {"user_id": users, "item_id": items, "timestamp": times, "rating": ratings, "row": pa.array(rows)},
        schema=schemas.SCHEMAS["interactions"],
    )
    bad = np.logical_or.reduce([mask for mask, *_ in problems])
    # Where the reader left a row out there is nothing but its number; all bad rows come in the order of the file.
    found = [(broken.row, KINDS.index(broken.kind), broken.reason) for broken in batch.broken]
    found += [(int(rows[index]), *_reason(problems, index)) for index in np.flatnonzero(bad).tolist()]
    found.sort()
    return LogRows(
        interactions.filter(pa.array(~bad)) if bad.any() else interactions,
        kinds[~bad],
        np.array([row for row, _, _ in found], np.int64),
        [kind for _, kind, _ in found],
        [reason for _, _, reason in found],
    )


def _null(array: pa.Array) -> np.ndarray:
    return np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))


_Problem = tuple[np.ndarray, str, str, pa.ChunkedArray]
"""Which rows have it, its kind, what to say, and the column as the file has it."""


def _reason(problems: Sequence[_Problem], index: int) -> tuple[int, str]:
    _, kind, what, column = next(problem for problem in problems if problem[0][index])
    given = column[index].as_py()
    return KINDS.index(kind), f"{what} ({str(given)[:60]!r})" if given not in (None, "") else what
