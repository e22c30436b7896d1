"""Passes B and C of the data stage: one task for each partition of users orders its log, counts for the search of the
times that divide the splits, and writes its part of the tables."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from rosepo_ray import storage
from rosepo_ray.config.data import DataSettings
from rosepo_ray.data.protocol import examples, hashes, selection, split, user_log
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray.log_plan import Plan
from rosepo_ray.on_ray.log_scatter import Scattered
from rosepo_ray.storage import tables


def each(task: Callable[..., Any], plan: Plan, *arguments: Any) -> Iterator[Any]:
    """Results of `task(plan, partition, *arguments)` for all partitions, in their order; errors as they were raised."""
    remote = ray.remote(num_cpus=1)(task)
    shared = [ray.put(argument) for argument in arguments]
    waiting = [remote.remote(plan, index, *shared) for index in range(plan.partitions)]
    try:
        while waiting:
            result = ray.get(waiting[0])
            waiting.pop(0)
            yield result
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RosepoError):
            raise error.cause from None
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:  # a task that runs on would write behind whoever clears up
            ray.wait(waiting, num_returns=len(waiting), fetch_local=False)


def order_partition(plan: Plan, index: int, scattered: Scattered) -> dict[str, Any]:
    """Orders what is used of a partition and stores it; returns counts and the range of its times."""
    data, catalogue = plan.data, ray.get(plan.catalogue)
    rows, left_out = _selected(_scattered(plan, index, scattered), data)
    log, duplicates, ratings = user_log.order(
        rows,
        items=len(catalogue),
        one_file=scattered.one_file,
        min_rating=data.min_rating,
        fractions=scattered.fractions,
        repeats=data.repeats == "keep",
    )
    digest = hashes.log_sum(log, ratings, catalogue)
    if data.max_per_user is not None:
        read, log = log, selection.subset(log, selection.not_overactive(log, data.max_per_user))
        left_out["max_per_user"] = len(read.user_N) - len(log.user_N)
    write_log(plan, index, log)
    return {**described(log), "duplicates": duplicates, "left_out": left_out, "log": digest}


def _scattered(plan: Plan, index: int, scattered: Scattered) -> pa.Table:
    """The rows of one partition, out of all files of pass A."""
    groups = []
    for name in scattered.names:
        system, path = storage.filesystem(storage.join(plan.work, name))
        with system.open_input_file(path) as source:
            groups.append(pq.ParquetFile(source).read_row_group(index))
    return pa.concat_tables(groups)


def _selected(rows: pa.Table, data: DataSettings) -> tuple[pa.Table, dict[str, int]]:
    """The rows in the window of the users in the sample, and how many are left out for each of these reasons."""
    within = selection.inside(selection.window(data), rows["timestamp"].to_numpy(), rows["time_kind"].to_numpy())
    chosen = rows.filter(pa.array(within))
    left_out = {"window": len(rows) - len(chosen)}
    if data.users < 1:
        encoded = pc.dictionary_encode(chosen["user_id"].combine_chunks())
        mine = selection.sampled(encoded.dictionary.to_pylist(), data.users, data.seed)
        left_out["users"] = len(chosen)
        chosen = chosen.filter(pa.array(mine[encoded.indices.to_numpy()]))
        left_out["users"] -= len(chosen)
    return chosen, left_out


def described(log: user_log.UserLog) -> dict[str, Any]:
    """Counts of one partition, the range of its kept times, and its busiest user (interactions, id)."""
    times, counts = log.time_N[log.kept_N], np.bincount(log.user_N, minlength=len(log.users))
    return {
        "filtered": int(np.count_nonzero(~log.kept_N)),
        "kept": len(times),
        "users": len(log.users),
        "repeated": bool((log.kept_lengths >= 2).any()),
        "times": (int(times.min()), int(times.max())) if len(times) else None,
        "busiest": (int(counts.max()), log.users[int(counts.argmax())]) if len(counts) else (0, ""),
    }


def _log_uri(plan: Plan, index: int) -> str:
    return storage.join(plan.work, f"{plan.ordered}-{index:05d}.parquet")


def write_log(plan: Plan, index: int, log: user_log.UserLog) -> None:
    sink = io.BytesIO()
    pq.write_table(log.to_table(), sink, compression="lz4")
    storage.write_bytes(_log_uri(plan, index), sink.getvalue())


def read_log(plan: Plan, index: int) -> user_log.UserLog:
    system, path = storage.filesystem(_log_uri(plan, index))
    with system.open_input_file(path) as source:
        return user_log.UserLog.from_table(pq.read_table(source))


def split_times(plan: Plan, ordered: Iterable[dict[str, Any]], kept: int) -> tuple[int, int]:
    """The times at which the validation and the test split begin, for a log of `kept` > 0 kept interactions.

    Raises BadInput where equal times leave a split empty.
    """
    ranges = [part["times"] for part in ordered if part["times"] is not None]
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)

    def count(low: int, high: int) -> np.ndarray:
        return np.asarray(sum(each(_count, plan, low, high)))

    validation, test = (split.find_cut(rank, low, high, count) for rank in split.time_ranks(kept))
    split.refuse_empty(validation, test, kept, low == high)
    return validation.time, test.time


def _count(plan: Plan, index: int, low: int, high: int) -> np.ndarray:
    system, path = storage.filesystem(_log_uri(plan, index))
    with system.open_input_file(path) as source:
        times = pq.read_table(source, columns=["timestamp"], filters=[("kept", "=", True)])["timestamp"]
    return split.histogram(times.to_numpy(), low, high)


def build_partition(plan: Plan, index: int, times: tuple[int, int] | None, out: str) -> dict[str, Any]:
    """Writes part `index` of the three tables; returns counts, the items' popularity and the hash of the test rows."""
    found = read_log(plan, index)
    splits = examples.split_by_time(found, *times) if times else examples.split_last_two(found)
    data = plan.data
    made = examples.build(
        found,
        splits,
        ray.get(plan.catalogue),
        history=data.history,
        count=data.candidates,
        seed=data.seed,
        repeats=data.repeats == "keep",
    )
    tables.write_part(out, "sequences", index, made.sequences)
    tables.write_part(out, "taken", index, made.taken)
    tables.write_part(out, "examples", index, made.examples)
    judged = made.examples.filter(pc.not_equal(made.examples["split"], "train"))
    counted = pc.value_counts(made.examples["split"]).to_pylist()
    return {
        "popularity": made.popularity,
        "examples": {entry["values"]: entry["counts"] for entry in counted},
        "protocol": hashes.table_sum(judged),
    }
