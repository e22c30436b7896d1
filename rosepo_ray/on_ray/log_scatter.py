"""Pass A of the data stage: files are read, brought into one form and written as partitions of users (Ray Data)."""

from __future__ import annotations

import io
import logging
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
from rosepo_ray.data.protocol import user_log
from rosepo_ray.data.reading import clocks, interactions, parse_columns, readers
from rosepo_ray.data.reading.files import SourceFile
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import data_context
from rosepo_ray.on_ray.log_plan import Plan, weight
from rosepo_ray.storage import tables

LOGGER = logging.getLogger(__name__)

UNIT_BYTES = 32 << 20
"""Small files are read together up to this size."""
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Scattered:
    """What pass A wrote (file names below the work folder) and counted."""

    names: list[str]
    one_file: bool
    """Whether all readable rows are of one file; then their order in it is known."""
    rows: int
    """Readable rows."""
    unknown: int
    """Those with an item that the items file lacks."""
    dropped: dict[str, int]
    """Rows left out because they cannot be read, by `log.KINDS`."""
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


_PROBLEM = pa.schema([("file", pa.int32()), ("kind", pa.uint8()), ("problem", pa.string())])
_BLOCK = pa.schema([*user_log.ROWS, *_PROBLEM])
_FATAL = 254
"""The kind of what is wrong with a whole file."""
_UNKNOWN = 255
"""The kind of the first unknown item of a batch, where such items are refused; it is no bad row."""
_GROUPS = {"bad": range(len(interactions.KINDS)), "whole_file": [_FATAL], "unknown": [_UNKNOWN]}
_FIRST = pa.struct([("file", pa.int32()), ("row", pa.int64()), ("problem", pa.string())])
_SUMMARY = pa.schema(
    [
        ("name", pa.string()),
        ("files", pa.list_(pa.int32())),
        ("rows", pa.int64()),
        ("unknown", pa.int64()),
        ("numbers", pa.bool_()),
        ("fractions", pa.bool_()),
        ("dates", pa.bool_()),
        ("times", pa.list_(pa.int64())),  # the first and the last
        ("clocks", pa.list_(pa.list_(pa.float64()))),
        ("bad", pa.list_(pa.int64())),  # by kind
        ("first", pa.struct([(name, _FIRST) for name in _GROUPS])),
    ]
)


def _read(batch: pa.Table, plan: Plan, units: list[list[int]]) -> Iterator[pa.Table]:
    """Rows of the files of one unit. What is wrong travels as a row with `problem` set, so that the driver can count
    and word it; a raised error would reach it as a stack trace of Ray Data."""
    catalogue = ray.get(plan.catalogue)
    wanted = interactions.wanted(plan.columns, plan.data.min_rating)
    for unit in batch["unit"].to_pylist():
        for index in units[unit]:
            yield _BLOCK.empty_table()
            try:
                for found in readers.read(plan.files[index], wanted):
                    with readers.explained(plan.files[index]):
                        rows = interactions.normalise(
                            found,
                            timed=plan.timed,
                            rating_needed=plan.data.min_rating is not None,
                            missing=plan.data.missing_ids,
                            time_format=plan.data.time_format,
                        )
                    yield _block(rows, index, catalogue, plan.data.on_unknown_item == "fail")
            except BadInput as error:
                yield _problems(index, np.array([-1]), [_FATAL], [str(error)])


def _block(rows: interactions.LogRows, index: int, catalogue: pa.Array, name_unknown: bool) -> pa.Table:
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
            pa.nulls(size, pa.uint8()),
            pa.nulls(size, pa.string()),
        ],
        schema=_BLOCK,
    )
    parts = [good, _problems(index, rows.bad_rows, rows.bad_kinds, rows.reasons)]
    if name_unknown and (first := pc.index(codes, pa.scalar(-1, pa.int32())).as_py()) >= 0:
        said = f"names item '{table['item_id'][first]}'"
        parts.append(_problems(index, table["row"].to_numpy()[first : first + 1], [_UNKNOWN], [said]))
    return pa.concat_tables(parts)


def _problems(index: int, bad_rows: np.ndarray, kinds: list[int], reasons: list[str]) -> pa.Table:
    size = len(reasons)
    columns: list[pa.Array] = [pa.nulls(size, field.type) for field in user_log.ROWS]
    columns[user_log.ROWS.names.index("row")] = pa.array(bad_rows, pa.int64())
    columns += [pa.array(np.full(size, index, np.int32)), pa.array(kinds, pa.uint8()), pa.array(reasons, pa.string())]
    return pa.table(columns, schema=_BLOCK)


def _write_rows(block: pa.Table, plan: Plan) -> pa.Table:
    """One file with a row group for each partition; returns its name and counts (one row), and the first problem."""
    wrong = block.filter(pc.is_valid(block["problem"])).sort_by([("file", "ascending"), ("row", "ascending")])
    if plan.data.on_bad_row == "drop":
        _write_dropped(wrong.filter(pc.less(wrong["kind"], len(interactions.KINDS))), plan)
    good = block.filter(pc.is_null(block["problem"]))
    known = good.filter(pc.greater_equal(good["item"], 0))
    name = ""
    if known.num_rows:
        # The first row of a block is no other block's: a task that runs again writes the same file.
        name = f"rows-{known['file'][0].as_py():06d}-{known['row'][0].as_py():012d}.parquet"
        places = user_log.partition_of(known["user_id"], plan.partitions)
        arranged = known.select(user_log.ROWS.names).take(pa.array(np.argsort(places, kind="stable")))
        bounds = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=plan.partitions))])
        _write(plan, name, arranged, bounds)
    times, written = good["timestamp"].to_numpy(), good["time_kind"].to_numpy()
    kinds = np.unique(written)
    summary = {
        "name": name,
        "files": pc.unique(good["file"]).to_pylist(),
        "rows": good.num_rows,
        "unknown": good.num_rows - known.num_rows,
        "numbers": bool(np.isin(kinds, [parse_columns.INTEGER, parse_columns.FRACTION]).any()),
        "fractions": parse_columns.FRACTION in kinds,
        "dates": parse_columns.DATE in kinds,
        "times": [times.min(), times.max()] if len(times) else [],
        "clocks": clocks.spans(times, written),
        "bad": np.bincount(wrong["kind"].to_numpy(), minlength=len(interactions.KINDS))[
            : len(interactions.KINDS)
        ].tolist(),
        "first": {name: _first(wrong, kinds) for name, kinds in _GROUPS.items()},
    }
    return pa.Table.from_pylist([summary], schema=_SUMMARY)


def _first(wrong: pa.Table, kinds: Sequence[int]) -> dict[str, Any] | None:
    """File, row and problem of the first row with a problem of these kinds."""
    rows = wrong.filter(pc.is_in(wrong["kind"], value_set=pa.array(kinds, pa.uint8())))
    return rows.select(["file", "row", "problem"]).slice(0, 1).to_pylist()[0] if rows.num_rows else None


def _write_dropped(bad: pa.Table, plan: Plan) -> None:
    if bad.num_rows:
        files = pa.array([file.path for file in plan.files]).take(bad["file"].combine_chunks())
        table = pa.table({"file": files, "row": pc.add(bad["row"], 1), "reason": bad["problem"]})
        # As for the partitions: a task that runs again writes the same file.
        tables.write_part(plan.out, "dropped", f"{bad['file'][0].as_py():06d}-{bad['row'][0].as_py():012d}", table)


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
    with data_context.data_context(BLOCK_BYTES):
        rows = (
            ray.data.from_items([{"unit": i} for i in range(len(units))], override_num_blocks=len(units))
            .map_batches(
                _read, fn_kwargs={"plan": plan, "units": units}, batch_size=1, batch_format="pyarrow", num_cpus=1
            )
            # Another share of a CPU than the reader's keeps Ray from fusing the two: a single large file is then
            # read by one task while others write.
            .map_batches(_write_rows, fn_kwargs={"plan": plan}, batch_size=None, batch_format="pyarrow", num_cpus=0.5)
        )
        # To the end in any case: while tasks are at work they write behind whoever clears up.
        found = list(rows.iter_rows())
    _check(found, plan)
    return Scattered(
        names=sorted(row["name"] for row in found if row["name"]),
        one_file=len(_files(found)) == 1,
        rows=sum(row["rows"] for row in found),
        unknown=sum(row["unknown"] for row in found),
        dropped={kind: sum(row["bad"][index] for row in found) for index, kind in enumerate(interactions.KINDS)},
        fractions=any(row["fractions"] for row in found),
    )


def _check(found: list[dict[str, Any]], plan: Plan) -> None:
    """Raises BadInput where the rows as a whole cannot be used, or not as the settings want it."""
    if wrong := [row["first"]["whole_file"] for row in found if row["first"]["whole_file"]]:
        raise BadInput(min(wrong, key=lambda first: first["file"])["problem"])
    total, bad = sum(row["rows"] for row in found), sum(sum(row["bad"]) for row in found)
    if bad and (plan.data.on_bad_row == "fail" or not total):
        leave = " or leave them out with --data.on_bad_row drop" if total else ""
        late = sum(row["bad"][interactions.KINDS.index("time")] for row in found)
        times = " or the format of the times with --data.time_format" if late and not plan.data.time_format else ""
        raise BadInput(
            f"{bad} of {total + bad} rows of the log cannot be used; the first is {_place(found, 'bad', plan)}; mend "
            f"or remove these rows, or name other columns with --data.columns.*{times}{',' if leave else ''}{leave}"
        )
    if not total:
        raise BadInput(f"{plan.files[0].path} holds no interactions; give a log with rows")
    unknown = sum(row["unknown"] for row in found)
    if unknown == total:
        raise BadInput(
            f"none of the {total} interactions names an item of the items file; check that both use the same ids, and "
            "--data.columns.item"
        )
    if unknown and plan.data.on_unknown_item == "fail":
        raise BadInput(
            f"{unknown} of {total} interactions name an item that the items file lacks; the first is "
            f"{_place(found, 'unknown', plan)}; add the items, or leave such rows out with --data.on_unknown_item drop"
        )
    if not plan.timed and (files := len(_files(found))) > 1:
        raise BadInput(
            f"data.interactions means {files} files with rows and data.columns.time is null, so their rows have no "
            "common order; name the time column or give one file"
        )
    if any(row["dates"] for row in found) and any(row["numbers"] for row in found):
        raise BadInput(
            "some times of the log are numbers and others dates, which have no common order; use one of them"
        )
    if plan.timed and (two := clocks.two_clocks(row["clocks"] for row in found)):
        raise BadInput(
            f"some times of the log are {two[0]} and others {two[1]}, which have no common order; use one of them"
        )
    ends = [time for row in found for time in row["times"]]
    if plan.timed and total > 1 and min(ends) == max(ends):
        LOGGER.warning(
            "all %d interactions have the same time, so neither histories nor the split by time follow an order; name "
            "another column with --data.columns.time, or set it to null where the rows of the file are in order",
            total,
        )


def _files(found: list[dict[str, Any]]) -> set[int]:
    """The files that have readable rows."""
    return {index for row in found for index in row["files"]}


def _place(found: list[dict[str, Any]], group: str, plan: Plan) -> str:
    rows = [row["first"][group] for row in found if row["first"][group]]
    first = min(rows, key=lambda row: (row["file"], row["row"]))
    return f"data row {first['row'] + 1} of {plan.files[first['file']].path}, which {first['problem']}"
