"""Input files as a stream of Arrow batches with the columns asked for; no file is ever held whole.

Text columns of delimited text stay text here (`Batch.untyped`), so that an id such as 007 survives;
Parquet and JSON keep their types. What the values mean is decided in `interactions.py` and `items.py`.

A row is numbered by its place among the file's data rows: the header and blank lines do not count, a line break inside
quotes ends no row, and a row that cannot be read (`Broken`) counts like any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rosepo_ray.data.reading import delimited, json_array, json_lines
from rosepo_ray.data.reading.files import SourceFile
from rosepo_ray.errors import BadInput

BLOCK_BYTES = 8 << 20  # of text per batch; a line longer than this cannot be read
PARQUET_ROWS = 1 << 18
_TEXT = ("user", "item", "title")  # roles whose values become text


@dataclass(frozen=True)
class Wanted:
    """A column to read: the name it gets here, its name in the file, the option that names it."""

    role: str
    name: str
    option: str
    required: bool = True


@dataclass(frozen=True)
class Broken:
    """A row that cannot be taken apart: its number (from 0), `fields` or `json`, and what is wrong with it."""

    row: int
    kind: Literal["fields", "json"]
    reason: str


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file and their numbers [N], from 0; an optional column may be absent."""

    rows: np.ndarray
    table: pa.Table
    untyped: bool
    broken: list[Broken] = field(default_factory=list)
    """Rows that were left out; those of a file come with its batches in order, somewhat early perhaps."""


def read(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[Batch]:
    """Batches of `file` with the columns `wanted`, named by role; nothing for a file without rows. A column that the
    file lacks may be named by a folder, and holds the folder's value then.

    Raises BadInput naming the file for a missing column, and for content that is not what the suffix says.
    """
    with explained(file):
        broken: list[Broken] = []
        folders = dict(file.folders)
        wanted = [replace(column, required=column.required and column.name not in folders) for column in wanted]
        if file.format == "parquet":
            tables = _parquet(file, wanted)
        elif file.format == "jsonl":
            tables = _jsonl(file, wanted, broken)
        else:
            tables = _delimited(file, wanted, broken)
        numbers = _Numbers()
        for table in tables:
            found = broken.copy()
            broken.clear()
            rows = numbers.of_next(table.num_rows, [b.row for b in found])
            for column in wanted:
                if column.name in folders:
                    table = _filled(table, column.role, folders[column.name], file.format == "jsonl")
            if len(rows) or found:
                yield Batch(rows, table, file.format not in ("parquet", "jsonl"), found)


def _filled(table: pa.Table, role: str, value: str | None, json: bool) -> pa.Table:
    """With `value` where the file has no such column, and in lines of JSON that have no such field."""
    column = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
    if role not in table.column_names:
        return table.append_column(role, column)
    own = pc.coalesce(table[role].cast(pa.string()), column) if json else table[role]
    return table.set_column(table.column_names.index(role), role, own)


class _Numbers:
    """Numbers of the rows that are given out, where the numbers of those left out are known just in time."""

    def __init__(self) -> None:
        self._given = 0
        self._gaps = np.array([], np.int64)  # numbers left out, at or after the next row

    def of_next(self, count: int, left_out: list[int]) -> np.ndarray:
        gaps = np.concatenate([self._gaps, np.array(left_out, np.int64)])
        good = np.arange(count)
        # Before gap j lie gaps[j] - j of the rows given out, so a row lies behind as many gaps as it exceeds that.
        before = gaps - self._given - np.arange(len(gaps))
        rows = self._given + good + np.searchsorted(before, good, side="right")
        self._given = int(rows[-1]) + 1 if count else self._given
        self._gaps = gaps[gaps >= self._given]
        return rows


@contextmanager
def explained(file: SourceFile) -> Iterator[None]:
    """Errors of Arrow and of the file system inside the `with`, as BadInput that names the file."""
    try:
        yield
    except (UnicodeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        if isinstance(error, UnicodeError) or "UTF8" in said or "UTF-8" in said or _undecoded(said):
            why = f"is not {file.encoding.upper()} text"
            remedy = "name its encoding with --data.encoding, for example latin-1, or convert it"
            if file.format == "parquet":  # whose text has no other encoding
                why, remedy = "holds bytes that are no UTF-8 text", "store that column as UTF-8 text"
            said = said.encode("ascii", "replace").decode()
        elif "straddling" in said:
            why = f"has a line longer than {BLOCK_BYTES >> 20} MiB"
            remedy = "repair or remove the file"
        else:
            why, remedy = f"is not readable as {file.format}", "repair or remove the file"
        raise BadInput(f"{file.path} {why} ({said}); {remedy}") from error
    except FileNotFoundError as error:
        raise BadInput(f"{file.path} is not there any more; give existing files") from error
    except (OSError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{file.path} cannot be read ({said}); the file may be damaged") from error


def _undecoded(said: str) -> bool:
    """Whether an error quotes text that could not be decoded."""
    return any(sign == "\ufffd" or "\ud800" <= sign <= "\udfff" for sign in said)


def _choose(file: SourceFile, wanted: Sequence[Wanted], found: Sequence[str]) -> dict[str, str]:
    """Role -> name in the file. `found` holds the file's columns. Raises BadInput for a required one that is missing,
    and for one that is there twice."""
    chosen = {}
    for column in wanted:
        if found.count(column.name) > 1:
            raise BadInput(f"{file.path} has more than one column '{column.name}'; rename the others")
        if column.name in found:
            chosen[column.role] = column.name
        elif column.required:
            raise BadInput(
                f"{file.path} has no column '{column.name}', it has {', '.join(found) or 'none'}; "
                f"name the right one with {column.option}" + _or_format(file)
            )
    return chosen


def _or_format(file: SourceFile) -> str:
    if file.format in ("parquet", "jsonl"):
        return ""
    where = file.format_option
    return f", what divides the columns with {where}.separator, or say {where}.header false where no row names them"


def _parquet(file: SourceFile, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
    with file.open_file() as source, pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        chosen = _choose(file, wanted, schema.names)
        for role in _TEXT:
            if role in chosen and not _spellable(schema.field(chosen[role]).type):
                raise BadInput(
                    f"column '{chosen[role]}' of {file.path} has the type {schema.field(chosen[role]).type}, which is "
                    f"neither text nor a number; give text or numbers, or name another column with "
                    f"--data.columns.{role}"
                )
        for batch in parquet.iter_batches(batch_size=PARQUET_ROWS, columns=list(dict.fromkeys(chosen.values()))):
            yield _by_role(pa.Table.from_batches([batch]), chosen)


def _spellable(kind: pa.DataType) -> bool:
    """Whether values of this type can become text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        pc.cast(pa.nulls(0, kind), pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _by_role(table: pa.Table, chosen: dict[str, str]) -> pa.Table:
    return pa.table({role: table.column(name) for role, name in chosen.items()})


def _delimited(file: SourceFile, wanted: Sequence[Wanted], broken: list[Broken]) -> Iterator[pa.Table]:
    how = delimited.dialect(file)
    names, alone = delimited.header(file, how, BLOCK_BYTES)
    if not names:
        return
    cleaned = [name.strip() for name in names]
    if file.format == "recbole":
        cleaned = [name.rsplit(":", 1)[0] for name in cleaned]
    chosen = {role: names[cleaned.index(name)] for role, name in _choose(file, wanted, cleaned).items()}
    if alone:  # which Arrow takes for an empty file where no line break follows
        return
    for wrong, table in delimited.read(file, how, names, list(dict.fromkeys(chosen.values())), BLOCK_BYTES):
        broken += [Broken(row, "fields", reason) for row, reason in wrong]
        yield _by_role(table, chosen)


def _line_blocks(file: SourceFile) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time; an array has one line for each element."""
    rest = b""
    with file.open_stream() as stream:
        start = stream.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
        chunks = itertools.chain([start], iter(lambda: stream.read(BLOCK_BYTES), b""))
        if json_array.begins(start):
            yield from json_array.lines(chunks, BLOCK_BYTES, file.path)
            return
        for chunk in chunks:
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            else:
                rest += chunk
    yield rest


def _jsonl(file: SourceFile, wanted: Sequence[Wanted], broken: list[Broken]) -> Iterator[pa.Table]:
    names = {column.role: column.name for column in wanted}
    text = [names[role] for role in _TEXT if role in names]
    seen, row = False, 0
    for block in _line_blocks(file):
        if not block.strip():
            continue
        table, wrong, rows = json_lines.parse(block, list(names.values()), text)
        broken += [Broken(row + place, "json", reason) for place, reason in wrong]
        row += rows
        if not seen and table.num_rows:
            _choose(file, wanted, table.column_names)
            seen = True
        # A later block may lack a field altogether: its rows have no value there.
        columns = {c.role: c.name for c in wanted if c.required or c.name in table.column_names}
        for name in set(columns.values()) - set(table.column_names):
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        yield _by_role(table, columns)
