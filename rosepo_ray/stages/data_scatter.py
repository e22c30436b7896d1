"""Pass A of the data stage: files are read, brought into one form and written as partitions of users (Ray Data)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from rosepo_ray import storage
from rosepo_ray.data import log, partition, readers, values
from rosepo_ray.data.files import SourceFile
from rosepo_ray.errors import BadInput
from rosepo_ray.stages import quiet
from rosepo_ray.stages.data_plan import Plan, weight

UNIT_BYTES = 32 << 20
"""Small files are read together up to this size."""
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Scattered:
    """What pass A wrote (file names below the work folder) and counted."""

    names: list[str]
    rows: int
    unknown: int
    fractions: bool


def _units(files: Sequence[SourceFile]) -> list[list[int]]:
    """Indices of files that one task reads, in order."""
    units: list[list[int]] = []
    room = 0
    for index, file in enumerate(files):
        if not units or room <= 0:
            units.append([])
            room = UNIT_BYTES
        units[-1].append(index)
        room -= weight(file)
    return units


_PROBLEM = pa.schema([("file", pa.int32()), ("problem", pa.string())])
_BLOCK = pa.schema([*partition.ROWS, *_PROBLEM])
_FATAL = -1


def _read(batch: pa.Table, plan: Plan, units: list[list[int]]) -> Iterator[pa.Table]:
    """Rows of the files of one unit. What is wrong travels as a row with `problem` set, so that the driver can count
    and word it; a raised error would reach it as a stack trace of Ray Data."""
    catalogue = ray.get(plan.catalogue)
    wanted = log.wanted(plan.columns, plan.data.min_rating)
    for unit in batch["unit"].to_pylist():
        for index in units[unit]:
            yield _BLOCK.empty_table()
            try:
                for found in readers.read(plan.files[index], wanted):
                    rows = log.normalise(found, timed=plan.timed, rating_needed=plan.data.min_rating is not None)
                    yield _block(rows, index, catalogue)
            except BadInput as error:
                yield _problems(index, np.array([_FATAL]), [str(error)])


def _block(rows: log.LogRows, index: int, catalogue: pa.Array) -> pa.Table:
    table = rows.interactions
    size = table.num_rows
    codes = pc.fill_null(pc.index_in(table["item_id"], value_set=catalogue), -1)
    good = pa.table(
        [
            table["user_id"],
            codes,
            table["timestamp"],
            pa.array(rows.time_kinds),
            table["rating"],
            table["row"],
            pa.array(np.full(size, index, np.int32)),
            pa.nulls(size, pa.string()),
        ],
        schema=_BLOCK,
    )
    return pa.concat_tables([good, _problems(index, rows.bad_rows, rows.reasons)])


def _problems(index: int, bad_rows: np.ndarray, reasons: list[str]) -> pa.Table:
    size = len(reasons)
    columns: list[pa.Array] = [pa.nulls(size, field.type) for field in partition.ROWS]
    columns[partition.ROWS.names.index("row")] = pa.array(bad_rows, pa.int64())
    return pa.table([*columns, pa.array(np.full(size, index, np.int32)), pa.array(reasons, pa.string())], schema=_BLOCK)


def _write_rows(block: pa.Table, plan: Plan) -> pa.Table:
    """One file with a row group for each partition; returns its name and counts (one row), or the problems."""
    wrong = block.filter(pc.is_valid(block["problem"]))
    good = block.filter(pc.is_null(block["problem"]))
    known = good.filter(pc.greater_equal(good["item"], 0))
    name = ""
    if known.num_rows:
        # The first row of a block is no other block's: a task that runs again writes the same file.
        name = f"rows-{known['file'][0].as_py():06d}-{known['row'][0].as_py():012d}.parquet"
        places = partition.partition_of(known["user_id"], plan.partitions)
        arranged = known.select(partition.ROWS.names).take(pa.array(np.argsort(places, kind="stable")))
        bounds = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=plan.partitions))])
        _write(plan, name, arranged, bounds)
    kinds = np.unique(good["time_kind"].to_numpy())
    first = wrong.sort_by([("file", "ascending"), ("row", "ascending")]).slice(0, 1).to_pylist()
    summary = {
        "name": name,
        "rows": good.num_rows,
        "unknown": good.num_rows - known.num_rows,
        "numbers": bool(np.isin(kinds, [values.INTEGER, values.FRACTION]).any()),
        "fractions": values.FRACTION in kinds,
        "dates": values.DATE in kinds,
        "bad": wrong.num_rows,
        "bad_file": first[0]["file"] if first else -1,
        "bad_row": first[0]["row"] if first else 0,
        "bad_reason": first[0]["problem"] if first else "",
    }
    return pa.Table.from_pylist([summary])


def _write(plan: Plan, name: str, table: pa.Table, bounds: np.ndarray) -> None:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="lz4") as writer:
        for start, end in pairwise(bounds):
            piece = table.slice(start, end - start)
            writer.write_table(piece, row_group_size=max(1, len(piece)))
    storage.write_bytes(storage.join(plan.work, name), sink.getvalue())


def scatter(plan: Plan) -> Scattered:
    """Reads all files of the plan. Raises BadInput for files and rows that cannot be read, and for an empty log."""
    units = _units(plan.files)
    with quiet.data_context(BLOCK_BYTES):
        rows = (
            ray.data.from_items([{"unit": i} for i in range(len(units))], override_num_blocks=len(units))
            .map_batches(
                _read, fn_kwargs={"plan": plan, "units": units}, batch_size=1, batch_format="pyarrow", num_cpus=1
            )
            # Another share of a CPU than the reader's keeps Ray from fusing the two: a single large file is then
            # read by one task while others write.
            .map_batches(_write_rows, fn_kwargs={"plan": plan}, batch_size=None, batch_format="pyarrow", num_cpus=0.5)
        )
        found: list[dict[str, Any]] = []
        for row in rows.iter_rows():
            if row["bad"] and row["bad_row"] == _FATAL:
                raise BadInput(row["bad_reason"])
            found.append(row)
    bad = [row for row in found if row["bad"]]
    total = sum(row["rows"] for row in found)
    if bad:
        first = min(bad, key=lambda row: (row["bad_file"], row["bad_row"]))
        number = sum(row["bad"] for row in bad)
        raise BadInput(
            f"{number} of {total + number} rows of the log cannot be used; the first is data row "
            f"{first['bad_row'] + 1} of {plan.files[first['bad_file']].path}, which {first['bad_reason']}; mend or "
            "remove these rows, or name other columns with --data.columns.*"
        )
    if not total:
        raise BadInput(f"{plan.files[0].path} holds no interactions; give a log with rows")
    unknown = sum(row["unknown"] for row in found)
    if unknown == total:
        raise BadInput(
            f"none of the {total} interactions names an item of the items file; check that both use the same ids, and "
            "--data.columns.item"
        )
    if any(row["dates"] for row in found) and any(row["numbers"] for row in found):
        raise BadInput(
            "some times of the log are numbers and others dates, which have no common order; use one of them"
        )
    names = sorted(row["name"] for row in found if row["name"])
    return Scattered(names, total, unknown, any(row["fractions"] for row in found))
