"""Which rows of `examples` a stage works on: all of a split, or those with the smallest hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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

    @lru_cache(maxsize=1)  # noqa: B019 - of one part, which a process that reads for units meets many times in a row
    def rows(self, part: str) -> pa.Table:
        """The chosen rows of one part of `examples`, in its order."""
        table = tables.read_part(part, "examples")
        return table.filter(pa.array(self.mask(table)))

    def all_rows(self, data: str) -> pa.Table:
        """The chosen rows of all parts below the data stage's folder, in order."""
        return pa.concat_tables([self.rows(part) for part in tables.parts(data, "examples")])

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


def choose(examples: str | pa.Table, limits: Mapping[str, int | None], seed: int, purpose: str) -> Choice:
    """Up to `limits[split]` rows of each split (None: all of them), the ones with the smallest hashes. `examples` is
    the table, or the data stage's folder, whose table is read part by part."""
    edges = dict.fromkeys(limits, _ALL)
    for split, limit in limits.items():
        if limit is None:
            continue
        if limit == 0:
            edges[split] = -1
            continue
        found = [np.empty(0, np.int64)]
        for ids in _parts(examples):
            mine = ids.filter(pc.equal(ids["split"], split))["example_id"].to_pylist()
            found.append(_hashes(seed, purpose, mine))
        hashes = np.concatenate(found)
        if limit < len(hashes):
            edges[split] = int(np.partition(hashes, limit - 1)[limit - 1])
    return Choice(purpose, seed, tuple(edges.items()))


def _parts(examples: str | pa.Table) -> Iterator[pa.Table]:
    if isinstance(examples, pa.Table):
        yield examples
        return
    for part in tables.parts(examples, "examples"):
        yield tables.read_part(part, "examples", ["example_id", "split"])
