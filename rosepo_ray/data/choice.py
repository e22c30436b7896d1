"""Which rows of `examples` a stage works on: all of a split, or those with the smallest hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.data.dense import PairWindows
from rosepo_ray.seeds import derive
from rosepo_ray.storage import tables

_ALL = int(np.iinfo(np.int64).max)
"""The edge that takes every row of a split."""


@dataclass(frozen=True)
class Choice:
    """Of each split the rows whose hash of (seed, purpose, example_id) is at most its edge, which takes as many as were
    asked for."""

    purpose: str
    seed: int
    edges: tuple[tuple[str, int], ...]
    """(split, edge) of each split that has one."""
    windows: PairWindows | None = None
    """Where given, the windows of the training split are chosen, whole, by their names; histories are cut to them."""

    @lru_cache(maxsize=1)  # noqa: B019 - of one part, which a process that reads for units meets many times in a row
    def rows(self, part: str) -> pa.Table:
        """The chosen rows of one part of `examples`, in its order."""
        return self.of(tables.read_part(part, "examples"))

    def all_rows(self, data: str) -> pa.Table:
        """The chosen rows of all parts below the data stage's folder, in order."""
        return pa.concat_tables([self.rows(part) for part in tables.parts(data, "examples")])

    def of(self, examples: pa.Table) -> pa.Table:
        """The chosen rows of a table."""
        chosen = examples.filter(pa.array(self.mask(examples)))
        return chosen if self.windows is None else self.windows.cut(chosen)

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with the columns `split`, `example_id` and `user_id` are chosen: bool [rows]."""
        of_split = dict(self.edges)
        edges = np.array([of_split.get(split, -1) for split in table["split"].to_pylist()], np.int64)
        mask, sampled = edges >= 0, (edges >= 0) & (edges < _ALL)
        if sampled.any():
            mask[sampled] = self._hashes(table.filter(pa.array(sampled))) <= edges[sampled]
        return mask

    def _hashes(self, rows: pa.Table) -> np.ndarray:
        names = rows["example_id"].to_pylist()
        if self.windows is not None:
            train = pc.equal(rows["split"], "train").to_pylist()
            windows = self.windows.names(rows)
            names = [windows[n] if train[n] else name for n, name in enumerate(names)]
        return np.fromiter((derive(self.seed, self.purpose, name) for name in names), np.int64, len(names))


def choose(
    examples: str | pa.Table,
    limits: Mapping[str, int | None],
    seed: int,
    purpose: str,
    windows: PairWindows | None = None,
) -> Choice:
    """Up to `limits[split]` rows of each split (None: all of them), the ones with the smallest hashes. `examples` is
    the table, or the data stage's folder, whose table is read part by part. With `windows` the training split gives
    whole windows, the last of which may go beyond its limit."""
    bare = Choice(purpose, seed, (), windows)
    edges = dict.fromkeys(limits, _ALL)
    for split, limit in limits.items():
        if limit is None:
            continue
        if limit == 0:
            edges[split] = -1
            continue
        found = [np.empty(0, np.int64)]
        for ids in _parts(examples):
            found.append(bare._hashes(ids.filter(pc.equal(ids["split"], split))))
        hashes = np.concatenate(found)
        if limit < len(hashes):
            edges[split] = int(np.partition(hashes, limit - 1)[limit - 1])
    return replace(bare, edges=tuple(edges.items()))


def _parts(examples: str | pa.Table) -> Iterator[pa.Table]:
    if isinstance(examples, pa.Table):
        yield examples
        return
    for part in tables.parts(examples, "examples"):
        yield tables.read_part(part, "examples", ["example_id", "user_id", "split"])
