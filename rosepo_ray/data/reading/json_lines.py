"""A block of JSON lines as an Arrow table, and the lines that are no JSON objects.

Arrow reads a block at once; where it gives up (a broken line, a field that is a number here and text there) the block
is read line by line.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

_EXACT = 2**53
"""From here on floats do not hold every whole number."""

_PYTHON = re.compile(r"\s*\{\s*u?'")

Wrong = tuple[int, str]
"""The number of a line in its block, blank lines not counted, and what is wrong with it."""


def parse(block: bytes, names: Sequence[str], text: Sequence[str]) -> tuple[pa.Table, list[Wrong], int]:
    """The rows of `block` (UTF-8, not blank), the lines left out, and how many both are together.

    The table has at least those of the columns `names` that the block has; `text` are the ones that hold ids or titles.
    Raises UnicodeDecodeError.
    """
    block.decode()  # Arrow would pass on what is no UTF-8, and something later would stumble
    for read in (_arrow, _inferred):
        try:
            table = read(block, text)
        except pa.ArrowInvalid:
            continue
        return table, [], table.num_rows
    return _by_line(block, names, text)


def _inferred(block: bytes, text: Sequence[str]) -> pa.Table:
    """Ids may be numbers, but text that looks like a time, which Arrow would make of it, stays text."""
    table = _arrow(block, [])
    if any(pa.types.is_nested(table[name].type) for name in text if name in table.column_names):
        raise pa.ArrowInvalid("an id or a title is a list or an object")  # line by line it is known which
    for name in text:
        # Arrow makes floats of whole numbers beyond int64, and of all where one has decimals; Python keeps them.
        column = table[name] if name in table.column_names else None
        if column is None or not pa.types.is_floating(column.type):
            continue
        if pc.any(pc.greater_equal(pc.abs(column), float(_EXACT))).as_py():
            raise pa.ArrowInvalid("an id is too large for a float")
    dated = [name for name in text if name in table.column_names and pa.types.is_temporal(table[name].type)]
    return _arrow(block, dated) if dated else table


def _arrow(block: bytes, text: Sequence[str]) -> pa.Table:
    options = pa.json.ReadOptions(block_size=len(block) + 1)
    explicit = pa.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in text]))
    return pa.json.read_json(io.BytesIO(block), read_options=options, parse_options=explicit)


def _by_line(block: bytes, names: Sequence[str], text: Sequence[str]) -> tuple[pa.Table, list[Wrong], int]:
    found: dict[str, list[Any]] = {name: [] for name in names}
    wrong: list[Wrong] = []
    present: set[str] = set()
    place = -1
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        place += 1
        record = _record(line.decode(), names, text)
        if isinstance(record, str):
            wrong.append((place, record))
            continue
        present |= record.keys()
        for name, column in found.items():
            column.append(record.get(name))
    columns = {name: _array(column, name in text) for name, column in found.items() if name in present}
    return pa.table(columns), wrong, place + 1


def _record(line: str, names: Sequence[str], text: Sequence[str]) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        if _PYTHON.match(line):
            return f"is a Python dictionary, not JSON ({line.strip()[:60]!r}); write it with json.dumps"
        return f"is not JSON: {said} ({line.strip()[:60]!r})"
    if not isinstance(record, dict):
        return f"is no JSON object ({line.strip()[:60]!r})"
    for name in text:
        if isinstance(record.get(name), (dict, list)):
            return f"has a '{name}' that is neither text nor a number ({line.strip()[:60]!r})"
        value = record.get(name)
        if isinstance(value, float) and abs(value) >= _EXACT:
            return f"has a '{name}' too large for a number with decimals or an exponent ({line.strip()[:60]!r})"
    for name in names:
        try:
            json.dumps(record.get(name), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return f"has a '{name}' with half of a surrogate pair, which is no text ({line.strip()[:60]!r})"
    return record


def _array(column: list[Any], text: bool) -> pa.Array:
    """Whole numbers stay numbers where all are (the ids then agree with those of a block that Arrow reads)."""
    try:
        found = pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_spelled(value) for value in column], pa.string())
    return pa.array([_spelled(value) for value in column], pa.string()) if text and _odd(found.type) else found


def _odd(kind: pa.DataType) -> bool:
    return not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def _spelled(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if value != value:  # NaN, which stands for a missing value
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return json.dumps(value)
