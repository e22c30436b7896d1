"""Units of work: short runs of rows of `examples` that one actor scores together.

Which rows make a unit is fixed by the table and the seed alone, and a finished unit is one stored part. So neither the
number of actors nor the size of blocks can change a result, and a stage that was killed goes on with the units that it
has not stored yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray import cluster, progress
from rosepo_ray.process import run_log, signals
from rosepo_ray.seeds import derive
from rosepo_ray.storage import tables

ROWS = 256
"""Rows of a unit at most: what a kill can cost each actor."""
_ALL = int(np.iinfo(np.int64).max)
"""The edge that takes every row of a split."""


@dataclass(frozen=True)
class Choice:
    """The rows of `examples` to score: of each split those whose hash of (seed, purpose, example_id) is at most its
    edge, which takes as many as were asked for."""

    purpose: str
    seed: int
    edges: tuple[tuple[str, int], ...]
    """(split, edge) of each split that has one."""

    @lru_cache(maxsize=1)  # noqa: B019 - of one part, which a process that reads for units meets many times in a row
    def rows(self, part: str) -> pa.Table:
        """The chosen rows of one part of `examples`, in its order."""
        table = tables.read_part(part, "examples")
        return table.filter(pa.array(self.mask(table)))

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with the columns `split` and `example_id` are chosen: bool [rows]."""
        of_split = dict(self.edges)
        edges = np.array([of_split.get(split, -1) for split in table["split"].to_pylist()], np.int64)
        mask, sampled = edges >= 0, (edges >= 0) & (edges < _ALL)
        if sampled.any():
            ids = table.filter(pa.array(sampled))["example_id"].to_pylist()
            mask[sampled] = _hashes(self.seed, self.purpose, ids) <= edges[sampled]
        return mask


def _hashes(seed: int, purpose: str, example_ids: Sequence[str]) -> np.ndarray:
    return np.fromiter((derive(seed, purpose, row) for row in example_ids), np.int64, len(example_ids))


def choose(data: str, limits: Mapping[str, int | None], seed: int, purpose: str) -> Choice:
    """Up to `limits[split]` rows of each split (None: all of them), the ones with the smallest hashes."""
    edges = dict.fromkeys(limits, _ALL)
    for split, limit in limits.items():
        if limit is None:
            continue
        if limit == 0:
            edges[split] = -1
            continue
        found = [np.empty(0, np.int64)]
        for part in tables.parts(data, "examples"):
            ids = tables.read_part(part, "examples", ["example_id", "split"])
            mine = ids.filter(pc.equal(ids["split"], split))["example_id"].to_pylist()
            found.append(_hashes(seed, purpose, mine))
        hashes = np.concatenate(found)
        if limit < len(hashes):
            edges[split] = int(np.partition(hashes, limit - 1)[limit - 1])
    return Choice(purpose, seed, tuple(edges.items()))


@dataclass(frozen=True)
class Unit:
    """Rows [start, stop) of the chosen rows of part number `part`; `key` says for what (a model, or nothing)."""

    number: int
    part: int
    start: int
    stop: int
    key: str = ""


def plan(data: str, choice: Choice) -> list[Unit]:
    """All units of a choice, in the order of the table; no unit spans two parts."""
    units: list[Unit] = []
    for number, part in enumerate(tables.parts(data, "examples")):
        rows = choice.rows(part).num_rows
        units += [
            Unit(len(units) + n, number, start, min(start + ROWS, rows)) for n, start in enumerate(range(0, rows, ROWS))
        ]
    return units


def complete(
    settings: Settings,
    name: str,
    units: Sequence[Unit],
    read: Callable[[Unit], pa.Table],
    actor: type,
    arguments: tuple[Any, ...],
    schema: str,
    folder: Callable[[Unit], str],
    keep: Callable[[pa.Table], pa.Table] = lambda scored: scored,
) -> int:
    """Score the units whose part of the table `schema` below `folder(unit)` is not stored yet, and store what `keep`
    leaves of each as it comes; progress goes under `name`. Returns the rows of all units together."""
    stored = {part for place in {folder(unit) for unit in units} for part in tables.parts(place, schema)}
    missing = [unit for unit in units if tables.part_uri(folder(unit), schema, unit.number) not in stored]
    rows = _rows(units)
    with progress.counting(name, rows) as line:
        line.update(rows - _rows(missing))
        for unit, scored in run(settings, missing, read, actor, arguments):
            tables.write_part(folder(unit), schema, unit.number, keep(scored))
            line.update(line.done + scored.num_rows)
    return rows


def _rows(units: Iterable[Unit]) -> int:
    return sum(unit.stop - unit.start for unit in units)


def run(
    settings: Settings,
    units: Sequence[Unit],
    read: Callable[[Unit], pa.Table],
    actor: type,
    arguments: tuple[Any, ...],
) -> Iterator[tuple[Unit, pa.Table]]:
    """Each unit with what `actor(*arguments)` makes of it, on Ray Data actors, in order.

    `read(unit)` gives the rows on whatever node has room; the actor is called as `actor(rows, key)`.
    """
    import ray

    from rosepo_ray.on_ray import data_context

    if not units:
        return
    shared = ray.put((list(units), read))

    def load(batch: pa.Table) -> pa.Table:
        known, fetch = ray.get(shared)
        index = batch["index"][0].as_py()
        rows = fetch(known[index])
        return rows.append_column("index", pa.array(np.full(rows.num_rows, index)))

    with data_context.data_context(slow_tasks=True, whole_blocks=True):
        stream = (
            # One block a unit all the way: a task that runs again makes the same rows, scored in the same batches.
            ray.data.from_items([{"index": n} for n in range(len(units))], override_num_blocks=len(units))
            .map_batches(load, batch_size=None, batch_format="pyarrow", num_cpus=cluster.READ_CPUS)
            .map_batches(
                _OneUnit,
                fn_constructor_args=(actor, arguments, [unit.key for unit in units], run_log.target()),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(settings.cluster.actors, len(units))),
                num_cpus=cluster.ACTOR_CPUS,
                num_gpus=int(settings.cluster.use_gpu),
            )
        )
        for block in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            unit = units[block["index"][0].as_py()]
            if block.num_rows != unit.stop - unit.start or pc.count_distinct(block["index"]).as_py() != 1:
                raise RosepoError(f"unit {unit} came back as {block.num_rows} rows; this is a bug, report it")
            yield unit, block.drop_columns(["index"])
            signals.raise_if_asked()


class _OneUnit:
    """What Ray Data starts: holds the stage's actor and hands it one unit after the other."""

    def __init__(self, actor: type, arguments: tuple[Any, ...], keys: list[str], log: run_log.Target | None) -> None:
        self.refusal: RosepoError | None = None
        try:
            with run_log.in_worker(log, actor.__name__.lower()):
                self.scorer, self.keys = actor(*arguments), keys
        except RosepoError as error:
            # Of an error in a constructor Ray keeps only the text, and prints it as pages: the first call raises it.
            self.refusal = error

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.refusal is not None:
            raise self.refusal
        index = block["index"][0].as_py()
        answer = self.scorer(block.drop_columns(["index"]), self.keys[index])
        return answer.append_column("index", pa.array(np.full(answer.num_rows, index)))
