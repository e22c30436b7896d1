"""The data stage: interaction logs to `items`, `sequences`, `taken` and `examples`, streamed through Ray Data.

Pass A (`data_scatter`) reads the files and sorts their rows into partitions by a hash of the user; pass B
(`data_build`) orders each partition and finds the times that divide the splits by counting; pass C writes the tables,
one part of each per partition. The driver holds the catalogue and counters, never the log.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from rosepo_ray import storage
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.settings import Settings
from rosepo_ray.data.protocol import hashes, split
from rosepo_ray.data.reading import items
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import log_build, log_plan
from rosepo_ray.on_ray.log_scatter import scatter
from rosepo_ray.storage import tables

_WORK = "_partitions"
_TABLES = ("items", "sequences", "taken", "examples", "dropped")


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Writes the four tables below `out`, and `dropped` where rows were left out; returns {"counts", "dataset",
    "protocol", "split"}.

    The rows of the log are counts.interactions + the sum of counts.dropped; of the interactions each is unknown, a
    duplicate, filtered or kept.

    Raises BadInput where the files or the settings cannot work; nothing is left in `out` then.
    """
    if storage.is_local(out):
        out = storage.filesystem(out)[1]  # absolute: a worker may have another working directory
    _clear(out)
    try:
        return _run(settings.data, out)
    except BaseException:
        _clear(out)
        raise
    finally:
        storage.remove_folder(storage.join(out, _WORK))


def _clear(out: str) -> None:
    for name in (*_TABLES, _WORK):
        storage.remove_folder(storage.join(out, name))


def _run(data: DataSettings, out: str) -> dict[str, Any]:
    source = log_plan.find_source(data, storage.join(out, _WORK))
    by_time = log_plan.splits_by_time(data, source)
    item_table = items.read_items(source.items, source.columns, genres=source.genres, separator=source.separator)
    if item_table.num_rows < data.candidates:
        raise BadInput(
            f"the items file has {item_table.num_rows} items, too few for candidate sets of {data.candidates}; "
            "lower --data.candidates or add items"
        )
    plan = log_plan.Plan(
        out=out,
        work=storage.join(out, _WORK),
        partitions=log_plan.partitions(source.interactions),
        timed=source.columns.time is not None,
        data=data,
        columns=source.columns,
        files=source.interactions,
        catalogue=ray.put(item_table["item_id"].combine_chunks()),
    )
    scattered = scatter(plan)
    ordered = list(log_build.each(log_build.order_partition, plan, scattered))
    kept = sum(part["kept"] for part in ordered)
    counts: dict[str, Any] = {
        "dropped": scattered.dropped,
        "interactions": scattered.rows,
        "unknown_items": scattered.unknown,
        "duplicates": sum(part["duplicates"] for part in ordered),
        "filtered": sum(part["filtered"] for part in ordered),
        "kept": kept,
        "users": sum(part["users"] for part in ordered),
        "items": item_table.num_rows,
    }
    if not any(part["repeated"] for part in ordered):
        raise BadInput(
            f"no user of the log has two items ({_summary(counts, data)}), so there is no history to learn from; "
            "give a log with several interactions per user" + (" or lower --data.min_rating" if data.min_rating else "")
        )
    times = log_build.split_times(plan, ordered, kept) if by_time else None
    made = dict.fromkeys(split.NAMES, 0)
    popularity = np.zeros(item_table.num_rows, np.int64)
    rows = 0
    for part in log_build.each(log_build.build_partition, plan, times, out):
        popularity += part["popularity"]
        rows = hashes.add(rows, part["protocol"])
        for name, number in part["examples"].items():
            made[name] += number
    if missing := [name for name, number in made.items() if not number]:
        raise BadInput(
            f"the {missing[0]} split has no example ({_summary(counts, data)}); give a longer log"
            + (" or set --data.split last_two" if by_time else "")
        )
    column = pa.array(popularity)
    tables.write_part(out, "items", 0, item_table.set_column(3, "popularity", column))
    how = "time" if by_time else "last_two"
    return {
        "counts": {**counts, "examples": made},
        "dataset": hashes.digest(
            hashes.add(*(part["log"] for part in ordered)), items=f"{hashes.table_sum(item_table):064x}"
        ),
        "protocol": hashes.digest(
            rows,
            split=how,
            min_rating=data.min_rating,
            history=data.history,
            candidates=data.candidates,
            seed=data.seed,
            repeats=data.repeats,
        ),
        "split": how,
    }


def _summary(counts: dict[str, Any], data: DataSettings) -> str:
    text = f"{counts['interactions']} interactions of {counts['users']} users"
    if data.min_rating is not None:
        text += f", {counts['kept']} of them rated {data.min_rating:g} or more"
    if dropped := sum(counts["dropped"].values()):
        text += f", {dropped} more rows that cannot be used"
    if counts["unknown_items"]:
        text += f", {counts['unknown_items']} with items that the items file lacks"
    return text
