"""Units of work: short runs of rows of `examples` that one actor scores together.

Which rows make a unit is fixed by the table and the seed alone, and a finished unit is one stored part. So neither the
number of actors nor the size of blocks can change a result, and a stage that was killed goes on with the units that it
has not stored yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.data.choice import Choice
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray import progress
from rosepo_ray.on_ray.cluster import ACTOR_CPUS, READ_CPUS
from rosepo_ray.process import run_log, signals
from rosepo_ray.process.cores import cores
from rosepo_ray.storage import tables

Actor = Callable[..., Callable[[pa.Table, str], pa.Table]]
"""Called with the arguments, where the actor starts, it gives what scores the rows of a unit, for its key."""

ROWS = 256
"""Rows of a unit at most: what a kill can cost each actor."""


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
    cluster: ClusterSettings,
    name: str,
    units: Sequence[Unit],
    read: Callable[[Unit], pa.Table],
    actor: Actor,
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
    with progress.counting(name, rows) as counter:
        counter.update(rows - _rows(missing))
        for unit, scored in run(cluster, missing, read, actor, arguments):
            tables.write_part(folder(unit), schema, unit.number, scored)
            counter.update(counter.done + scored.num_rows)
    return rows


def _rows(units: Iterable[Unit]) -> int:
    return sum(unit.stop - unit.start for unit in units)


def run(
    cluster: ClusterSettings,
    units: Sequence[Unit],
    read: Callable[[Unit], pa.Table],
    actor: Actor,
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
            .map_batches(load, batch_size=None, batch_format="pyarrow", num_cpus=READ_CPUS)
            .map_batches(
                _OneUnit,
                fn_constructor_args=(actor, arguments, [unit.key for unit in units], cluster.actors, run_log.target()),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(cluster.actors, len(units))),
                num_cpus=ACTOR_CPUS,
                num_gpus=int(cluster.use_gpu),
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

    def __init__(
        self, actor: Actor, arguments: tuple[Any, ...], keys: list[str], actors: int, log: run_log.Target | None
    ) -> None:
        import torch

        torch.set_num_threads(max(1, cores() // actors))
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
