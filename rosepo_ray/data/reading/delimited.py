"""CSV, TSV, other delimited text and RecBole's atomic files, as Arrow tables of text."""

from __future__ import annotations

import csv
import io
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rosepo_ray.data.reading.files import SourceFile
from rosepo_ray.data.reading.whole_rows import MARK, Dialect, WholeRows
from rosepo_ray.errors import BadInput

_SEPARATORS = {"csv": ",", "tsv": "\t", "recbole": "\t"}
_HEADER_BYTES = 1 << 20


def dialect(file: SourceFile) -> Dialect:
    """How `file` is written: as its settings say, and where they are silent, as its suffix."""
    separator = file.text.separator or _SEPARATORS.get(file.format)
    if separator is None:
        raise BadInput(
            f"the suffix of {file.path} does not say what divides its fields; name it with "
            f"{file.format_option}.separator, for example '::'"
        )
    quote = file.text.quote
    if quote == "auto":
        quote = '"' if file.format in ("csv", "tsv") and len(separator) == 1 else None
    return Dialect(separator.encode(), (quote or "").encode(), (file.text.escape or "").encode(), file.text.header)


def header(file: SourceFile, how: Dialect, block_bytes: int) -> tuple[list[str], bool]:
    """The names of the columns as Arrow is to call them (empty where there is no row), and whether a header is all
    there is. Without a header they are called 1, 2, …, as many as most of the first rows have."""
    with file.open_stream() as stream:
        rows = WholeRows(stream, how, "", block_bytes)
        text = rows.read(_HEADER_BYTES).decode()
    text = text[: text.rfind("\n") + 1 or None]
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if how.quote else csv.QUOTE_NONE
    quote, escape = how.quote.decode() or None, how.escape.decode() or None
    csv.field_size_limit(_HEADER_BYTES)  # a long title behind the header is none of its business
    source = io.StringIO(text, newline="")
    lines = csv.reader(source, delimiter=how.delimiter, quotechar=quote, escapechar=escape, quoting=quoting)
    if how.header:
        first = next((row for row in lines if row), [])
        if first[:1] == [MARK]:
            raise BadInput(f"the header of {file.path} {_malformed(rows.malformed[0], file)}")
        return first, not source.read().strip("\r\n")
    lengths = Counter(len(row) for row in islice(lines, 100) if row and row[0] != MARK)
    return [str(place + 1) for place in range(lengths.most_common(1)[0][0] if lengths else 0)], False


def read(file: SourceFile, how: Dialect, names: list[str], columns: list[str], block_bytes: int) -> Iterator[Any]:
    """Blocks of rows with the text of `columns`, and before each the rows (number, reason) that were left out by then.

    `names` are those of all columns, as `header` gives them.
    """
    wrong: deque[tuple[int, str]] = deque()  # Arrow reads ahead, in a thread of its own
    stream = file.open_stream()
    # One field more than the header has, so that it is never taken for a row of the file.
    rows = WholeRows(stream, how, how.delimiter * max(1, len(names)), block_bytes)

    def left_out(row: Any) -> str:
        # Arrow counts from 1 and the header too.
        if row.text.startswith(MARK):
            reason = _malformed(rows.malformed.popleft(), file)
        else:
            said = row.text.replace(how.delimiter, how.separator.decode())[:60]
            where = "the header has" if how.header else "others have"
            reason = f"has {row.actual_columns} fields where {where} {row.expected_columns} ({said!r})"
        wrong.append((row.number - 1 - how.header, reason))
        return "skip"

    with stream:
        reader = pa.csv.open_csv(
            rows,
            # With threads Arrow would not know the numbers of the rows; the tasks are parallel already.
            read_options=pa.csv.ReadOptions(
                block_size=block_bytes, use_threads=False, column_names=None if how.header else names
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=how.delimiter,
                quote_char=how.quote.decode() or False,
                double_quote=bool(how.quote),
                escape_char=how.escape.decode() or False,
                newlines_in_values=bool(how.quote or how.escape),
                invalid_row_handler=left_out,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in columns},
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            yield _taken(wrong), _as_written(pa.Table.from_batches([batch]), how)
        yield _taken(wrong), reader.schema.empty_table()  # rows left out since the last block


def _taken(wrong: deque[tuple[int, str]]) -> list[tuple[int, str]]:
    return [wrong.popleft() for _ in range(len(wrong))]


def _as_written(table: pa.Table, how: Dialect) -> pa.Table:
    """With the separators that stand inside quotes."""
    if len(how.separator) == 1 or not how.quote:
        return table
    separator = how.separator.decode()
    return pa.table([pc.replace_substring(c, how.delimiter, separator) for c in table.columns], table.schema)


def _malformed(text: str, file: SourceFile) -> str:
    return (
        f"opens a quote that is never closed, or holds one that is not doubled ({text[:60]!r}); where quotes are text "
        f"{file.format_option}.quote null keeps them, where they are escaped name the sign with {file.format_option}."
        "escape"
    )
