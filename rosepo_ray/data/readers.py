"""Input files as a stream of Arrow batches with the columns asked for; no file is ever held whole.

Text columns of CSV, TSV and RecBole files stay text here (`Batch.untyped`), so that an id such as 007 survives;
Parquet and JSONL keep their types. What the values mean is decided in `log.py` and `items.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from rosepo_ray.data.files import SourceFile
from rosepo_ray.errors import BadInput

BLOCK_BYTES = 8 << 20  # of text per batch; a line longer than this cannot be read
PARQUET_ROWS = 1 << 18


@dataclass(frozen=True)
class Wanted:
    """A column to read: the name it gets here, its name in the file, the option that names it."""

    role: str
    name: str
    option: str
    required: bool = True


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file. `first_row` counts data rows from 0; an optional column may be absent."""

    first_row: int
    table: pa.Table
    untyped: bool


def read(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[Batch]:
    """Batches of `file` with the columns `wanted`, named by role; nothing for a file without rows.

    Raises BadInput naming the file for a missing column, and for content that is not what the suffix says.
    """
    with explained(file):
        if file.format == "parquet":
            tables = _parquet(file, wanted)
        elif file.format == "jsonl":
            tables = _jsonl(file, wanted)
        else:
            tables = _delimited(file, wanted)
        row = 0
        for table in tables:
            if table.num_rows:
                yield Batch(row, table, untyped=file.format in ("csv", "tsv", "recbole"))
                row += table.num_rows


@contextmanager
def explained(file: SourceFile) -> Iterator[None]:
    """Errors of Arrow and of the file system inside the `with`, as BadInput that names the file."""
    try:
        yield
    except (UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        if isinstance(error, UnicodeDecodeError) or "UTF8" in said or "UTF-8" in said:
            why, remedy = "is not UTF-8 text", "convert it to UTF-8, for example with iconv"
        else:
            why, remedy = f"is not readable as {file.format}", "repair or remove the file"
        raise BadInput(f"{file.path} {why} ({said}); {remedy}") from error
    except FileNotFoundError as error:
        raise BadInput(f"{file.path} is not there any more; give existing files") from error
    except (OSError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{file.path} cannot be read ({said}); the file may be damaged") from error


def _choose(file: SourceFile, wanted: Sequence[Wanted], found: Sequence[str]) -> dict[str, str]:
    """Role -> name in the file. `found` holds the file's columns. Raises BadInput for a missing required one."""
    chosen = {}
    for column in wanted:
        if column.name in found:
            chosen[column.role] = column.name
        elif column.required:
            raise BadInput(
                f"{file.path} has no column '{column.name}', it has {', '.join(found) or 'none'}; "
                f"name the right one with {column.option}"
            )
    return chosen


def _parquet(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
    with file.open_file() as source, pq.ParquetFile(source) as parquet:
        chosen = _choose(file, wanted, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(batch_size=PARQUET_ROWS, columns=list(dict.fromkeys(chosen.values()))):
            yield _by_role(pa.Table.from_batches([batch]), chosen)


def _by_role(table: pa.Table, chosen: dict[str, str]) -> pa.Table:
    return pa.table({role: table.column(name) for role, name in chosen.items()})


def _header(file: SourceFile, delimiter: str, quoting: Literal[0, 3]) -> list[str]:
    """The names in the first line that is not blank; empty where there is none."""
    with file.open_stream() as stream:
        start = stream.read(1 << 20)
    text = start[: start.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    return next((row for row in rows if row), [])


def _delimited(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
    plain = file.format == "recbole"  # its atomic files know no quoting
    delimiter = "," if file.format == "csv" else "\t"
    header = _header(file, delimiter, csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
    if not header:
        return
    cleaned = [name.strip() for name in header]
    if plain:
        cleaned = [name.rsplit(":", 1)[0] for name in cleaned]
    chosen = {role: header[cleaned.index(name)] for role, name in _choose(file, wanted, cleaned).items()}
    names = list(dict.fromkeys(chosen.values()))
    if doubled := [name for name in names if header.count(name) > 1]:
        raise BadInput(f"{file.path} has more than one column '{doubled[0]}'; rename the others")
    with file.open_stream() as stream:
        reader = pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char=False if plain else '"',
                double_quote=not plain,
                newlines_in_values=not plain,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=names,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            yield _by_role(pa.Table.from_batches([batch]), chosen)


def _line_blocks(file: SourceFile) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time."""
    rest = b""
    with file.open_stream() as stream:
        first = True
        while chunk := stream.read(BLOCK_BYTES):
            if first:
                chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            else:
                rest += chunk
    yield rest


def _jsonl(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
    seen = False
    for block in _line_blocks(file):
        if not block.strip():
            continue
        table = _parse_json(block, wanted)
        if not seen:
            _choose(file, wanted, table.column_names)
            seen = True
        # A later block may lack a field altogether: its rows have no value there.
        columns = {c.role: c.name for c in wanted if c.required or c.name in table.column_names}
        for name in set(columns.values()) - set(table.column_names):
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        yield _by_role(table, columns)


def _parse_json(block: bytes, wanted: Sequence[Wanted]) -> pa.Table:
    """Text is tried first: by inference, Arrow would turn ids and titles that look like dates into times."""
    text = pa.schema([(c.name, pa.string()) for c in wanted if c.role in ("user", "item", "title")])
    options = pa.json.ReadOptions(block_size=max(len(block), 1) + 1)
    try:
        return pa.json.read_json(
            io.BytesIO(block), read_options=options, parse_options=pa.json.ParseOptions(explicit_schema=text)
        )
    except pa.ArrowInvalid:
        return pa.json.read_json(io.BytesIO(block), read_options=options)
