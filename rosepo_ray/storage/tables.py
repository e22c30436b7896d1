"""Reading and writing the tables of `schemas`: a table is a folder NAME/part-*.parquet inside a stage's folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.storage import schemas


def write_part(stage: str, name: str, part: str | int, table: pa.Table) -> str:
    """Check `table` against `SCHEMAS[name]`, write it as one part of that table, return the part's URI."""
    sink = io.BytesIO()
    pq.write_table(schemas.cast(name, table), sink, compression="zstd")
    uri = part_uri(stage, name, part)
    storage.write_bytes(uri, sink.getvalue())
    return uri


def part_uri(stage: str, name: str, part: str | int) -> str:
    label = f"{part:05d}" if isinstance(part, int) else part
    return storage.join(stage, name, f"part-{label}.parquet")


def parts(stage: str, name: str) -> list[str]:
    """URIs of the parts of a table, in order of their names."""
    folder = storage.join(stage, name)
    return [storage.join(folder, file) for file in storage.list_files(folder) if file.endswith(".parquet")]


def read_part(uri: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One part; with `columns` only those (types checked as well)."""
    system, path = storage.filesystem(uri)
    with system.open_input_file(path) as source:
        table = pq.read_table(source, columns=None if columns is None else list(columns))
    if columns is None:
        return schemas.cast(name, table)
    wanted = pa.schema([schemas.SCHEMAS[name].field(column) for column in columns])
    if table.schema.names != wanted.names and set(table.schema.names) != set(wanted.names):
        raise RosepoError(f"{uri} lacks some of the columns {list(columns)}")
    return table.select(wanted.names).cast(wanted)


def read(stage: str, name: str, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
    """The table, parts in order; an empty table where there is no part.

    With `split` only the rows of that split, filtered part by part: the others are never held together.
    """
    found = []
    for uri in parts(stage, name):
        part = read_part(uri, name, columns)
        found.append(part if split is None else part.filter(pc.equal(part["split"], split)))
    if found:
        return pa.concat_tables(found)
    schema = schemas.SCHEMAS[name]
    return (schema if columns is None else pa.schema([schema.field(c) for c in columns])).empty_table()


def from_rows(name: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows (dictionaries) as a table of `SCHEMAS[name]`."""
    return pa.Table.from_pylist(list(rows), schema=schemas.SCHEMAS[name])
