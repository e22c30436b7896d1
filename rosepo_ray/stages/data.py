"""The data stage: interaction logs to `items`, `sequences`, `taken` and `examples`, streamed through Ray Data.

Pass A (`data_scatter`) reads the files and sorts their rows into partitions by a hash of the user; pass B
(`data_build`) orders each partition and finds the times that divide the splits by counting; pass C writes the tables,
one part of each per partition. The driver holds the catalogue and counters, never the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rosepo_ray import storage
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.data.protocol import hashes, selection, split
from rosepo_ray.data.reading import items
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.on_ray import log_plan
    from rosepo_ray.on_ray.log_scatter import Scattered

LOGGER = logging.getLogger(__name__)

_WORK = "_partitions"
_PROTOCOL = (
    "min_rating",
    "history",
    "candidates",
    "seed",
    "repeats",
    "since",
    "until",
    "users",
    "max_per_user",
    "min_user",
    "min_item",
)
_MUCH = 0.05
"""Share of a log that one user should not have, where there are many."""
_TABLES = ("items", "sequences", "taken", "examples", "dropped")


@dataclass(frozen=True)
class DataResult:
    counts: dict[str, Any]
    dataset: str
    """Hash of the log and the items."""
    protocol: str
    """Hash of the judged rows and of what they depend on."""
    split: str


@stage(rewrites=True)
def data(inputs: Inputs, out: str, *, data: DataSettings) -> DataResult:
    """Read logs and items into `items`, `sequences`, `taken`, `examples`, and `dropped` where something was left out.

    The rows of the log are counts.interactions + the sum of counts.dropped; of the interactions each is unknown, left
    out by a setting, a duplicate, filtered or kept.

    Raises BadInput where the files or the settings cannot work; nothing is left in `out` then.
    """
    if storage.is_local(out):
        out = storage.filesystem(out)[1]  # absolute: a worker may have another working directory
    _clear(out)
    try:
        return _run(data, out)
    except BaseException:
        _clear(out)
        raise
    finally:
        storage.remove_folder(storage.join(out, _WORK))


def _clear(out: str) -> None:
    for name in (*_TABLES, _WORK):
        storage.remove_folder(storage.join(out, name))


def _run(data: DataSettings, out: str) -> DataResult:
    from rosepo_ray.on_ray import log_build, log_core, log_plan, log_scatter

    selection.window(data)  # refused before anything is read
    source = log_plan.find_source(data, storage.join(out, _WORK))
    by_time = log_plan.splits_by_time(data, source)
    found = items.read_items(
        source.items,
        source.columns,
        genres=source.genres,
        separator=source.separator,
        on_bad_item=data.on_bad_item,
        missing=data.missing_ids,
    )
    item_table = found.items
    plan = log_plan.Plan(
        out=out,
        work=storage.join(out, _WORK),
        partitions=log_plan.partitions(source.interactions),
        timed=source.columns.time is not None,
        data=data,
        columns=source.columns,
        files=source.interactions,
        catalogue=log_plan.share(item_table["item_id"].combine_chunks()),
    )
    _refuse_few_items(item_table, data, "the items file has", "add items")
    scattered = log_scatter.scatter(plan)
    ordered = parts = list(log_build.each(log_build.order_partition, plan, scattered))
    dataset = hashes.digest(
        hashes.add(*(part["log"] for part in ordered)), items=f"{hashes.table_sum(item_table):064x}"
    )
    if data.min_user or data.min_item:
        plan, item_table, parts = log_core.trim(plan, item_table)
        what = f"data.min_user {data.min_user} and data.min_item {data.min_item} leave"
        _refuse_few_items(item_table, data, what, "lower these")
    counts = _counts(scattered, ordered, parts, item_table)
    _refuse_short_log(counts, parts, data)
    _warn_of_busiest(counts, parts)
    times = log_build.split_times(plan, parts, counts["kept"]) if by_time else None
    made, popularity, rows = _build(plan, times, out, item_table.num_rows)
    if missing := [name for name, number in made.items() if not number]:
        raise BadInput(
            f"the {missing[0]} split has no example ({_summary(counts, data)}); give a longer log"
            + (" or set --data.split last_two" if by_time else "")
        )
    if found.dropped.num_rows:
        tables.write_part(out, "dropped", "items", found.dropped)
    tables.write_part(out, "items", 0, item_table.set_column(3, "popularity", pa.array(popularity)))
    how = "time" if by_time else "last_two"
    facts = {name: getattr(data, name) for name in _PROTOCOL}
    bad_items = {"dropped_items": found.counts, "repeated_items": found.repeated}
    return DataResult(
        counts={**counts, **bad_items, "examples": made},
        dataset=dataset,
        protocol=hashes.digest(rows, split=how, **facts),
        split=how,
    )


def _build(
    plan: log_plan.Plan, times: tuple[int, int] | None, out: str, item_count: int
) -> tuple[dict[str, int], np.ndarray, int]:
    """Pass C: examples of each split, training interactions of each item, and the hash of the rows to be judged."""
    from rosepo_ray.on_ray import log_build

    made, popularity, rows = dict.fromkeys(split.NAMES, 0), np.zeros(item_count, np.int64), 0
    for part in log_build.each(log_build.build_partition, plan, times, out):
        popularity += part["popularity"]
        rows = hashes.add(rows, part["protocol"])
        for name, number in part["examples"].items():
            made[name] += number
    return made, popularity, rows


def _counts(
    scattered: Scattered, ordered: list[dict[str, Any]], parts: list[dict[str, Any]], item_table: pa.Table
) -> dict[str, Any]:
    early = ("window", "users", "max_per_user")
    left_out = {name: sum(part["left_out"].get(name, 0) for part in ordered) for name in early}
    left_out["rare"] = sum(part.get("rare", 0) for part in parts)
    return {
        "dropped": scattered.dropped,
        "interactions": scattered.rows,
        "unknown_items": scattered.unknown,
        "left_out": left_out,
        "duplicates": sum(part["duplicates"] for part in ordered),
        **{name: sum(part[name] for part in parts) for name in ("filtered", "kept", "users")},
        "items": item_table.num_rows,
    }


def _refuse_few_items(item_table: pa.Table, data: DataSettings, what: str, remedy: str) -> None:
    if item_table.num_rows < data.candidates:
        raise BadInput(
            f"{what} {item_table.num_rows} items, too few for candidate sets of {data.candidates}; "
            f"lower --data.candidates or {remedy}"
        )


def _refuse_short_log(counts: dict[str, Any], parts: list[dict[str, Any]], data: DataSettings) -> None:
    if not any(part["repeated"] for part in parts):
        raise BadInput(
            f"no user of the log has two items ({_summary(counts, data)}), so there is no history to learn from; "
            "give a log with several interactions per user" + (" or lower --data.min_rating" if data.min_rating else "")
        )


def _warn_of_busiest(counts: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """One user with much of a log is mostly none: a word for a missing id, a shop's account, a robot."""
    most, user = max(part["busiest"] for part in parts)
    total = counts["filtered"] + counts["kept"]
    if most > _MUCH * total and most * counts["users"] > 10 * total:
        LOGGER.warning(
            "user '%s' has %d of the %d interactions (%.0f %%); if that is no person, leave such users out with "
            "--data.max_per_user",
            user,
            most,
            total,
            100 * most / total,
        )


def _summary(counts: dict[str, Any], data: DataSettings) -> str:
    text = f"{counts['interactions']} interactions of {counts['users']} users"
    if data.min_rating is not None:
        text += f", {counts['kept']} of them rated {data.min_rating:g} or more"
    if dropped := sum(counts["dropped"].values()):
        text += f", {dropped} more rows that cannot be used"
    if left_out := sum(counts["left_out"].values()):
        text += f", {left_out} left out by other settings of data"
    if counts["unknown_items"]:
        text += f", {counts['unknown_items']} with items that the items file lacks"
    return text
