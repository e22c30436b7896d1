"""Hashes of what was read and of what is tested, independent of the order of rows, of files and of partitions.

Each group of rows is hashed with SHA-256 and the digests are added modulo 2^256, so parts can be added in any order.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.data.protocol.user_log import UserLog

_MODULUS = 1 << 256
_FIELD, _ROW = "\x1f", "\x1e"


def add(*sums: int) -> int:
    return sum(sums) % _MODULUS


def digest(total: int, **facts: Any) -> str:
    """SHA-256, hex, of a sum of digests and the facts (JSON values) that belong to it."""
    text = json.dumps({**facts, "rows": f"{total:064x}"}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sum(text: pa.Array, bounds: np.ndarray) -> int:
    """Sum of the digests of the groups text[bounds[i]:bounds[i+1]]."""
    text = pa.concat_arrays([pc.cast(text, pa.large_string())])
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1][bounds].tolist()
    content = memoryview(text.buffers()[2] or b"")
    total = 0
    for start, end in pairwise(offsets):
        total += int.from_bytes(hashlib.sha256(content[start:end]).digest(), "big")
    return total % _MODULUS


def _joined(*columns: Any) -> pa.Array:
    parts = [pc.cast(column, pa.large_string()) for column in columns]
    # The closing row mark keeps ("a", "bc") and ("ab", "c") apart across rows.
    row, field = (pa.scalar(mark, pa.large_string()) for mark in (_ROW, _FIELD))
    return pc.binary_join_element_wise(*parts, row, field, null_handling="replace")


def log_sum(log: UserLog, rating_N: np.ndarray, item_ids: pa.Array) -> int:
    """Sum over users of the hash of their log: user, item, time, rating, in order."""
    users = pa.array(log.users, pa.string()).take(pa.array(log.user_N))
    ratings = pa.array(rating_N, pa.float32(), mask=np.isnan(rating_N))
    text = _joined(users, item_ids.take(pa.array(log.item_N)), pa.array(log.time_N), ratings)
    return _sum(text, np.searchsorted(log.user_N, np.arange(len(log.users) + 1)))


def table_sum(table: pa.Table) -> int:
    """Sum of the hashes of the rows of a table of strings, numbers and lists of strings."""
    columns = [
        pc.binary_join(column, _FIELD) if pa.types.is_list(column.type) else column
        for column in (table[name].combine_chunks() for name in sorted(table.column_names))
    ]
    return _sum(_joined(*columns), np.arange(table.num_rows + 1))
