"""Where the log of a run comes from, and what every task of the data stage needs to know."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa
import ray

from rosepo_ray import storage
from rosepo_ray.config.data import Columns, DataSettings, TextFormat
from rosepo_ray.data import samples
from rosepo_ray.data.reading.files import UTF8, SourceFile, locate
from rosepo_ray.errors import BadInput

PARTITION_BYTES = 16 << 20
"""Uncompressed text per partition: what one task holds, a few times over."""
_OF_OWN_FILES = ("encoding", "columns", "format", "items_format", "time_format")
_PACKED = 4  # compressed text and Parquet hold about so many times their size


@dataclass(frozen=True)
class Source:
    """Where the log and the items are and how their columns are called."""

    interactions: list[SourceFile]
    items: list[SourceFile]
    columns: Columns
    genres: str = "genres"
    separator: str = "|"


@dataclass(frozen=True)
class Plan:
    """What every task needs to know. `catalogue` refers to the item ids (sorted) in the object store."""

    out: str
    work: str
    partitions: int
    timed: bool
    data: DataSettings
    columns: Columns
    files: list[SourceFile]
    catalogue: ray.ObjectRef
    ordered: str = "ordered"
    """How the files of the partitions are called after pass B."""


def share(item_ids: pa.Array) -> ray.ObjectRef:
    """The catalogue in the object store, once for all tasks."""
    return ray.put(item_ids)


def find_source(data: DataSettings, work: str) -> Source:
    """The files of the user, or those of the sample, copied below `work`."""
    if data.sample == "none":
        assert data.interactions is not None  # the settings have checked both
        assert data.items is not None
        log = locate(data.interactions, "interactions", data.encoding, data.format)
        items = locate(data.items, "items", data.encoding, data.items_format)
        if data.time_format is not None and data.columns.time is None:
            raise BadInput("data.time_format has no effect, since data.columns.time is null; leave one of them out")
        if data.encoding != UTF8 and all(file.format == "parquet" for file in (*log, *items)):
            raise BadInput(
                f"data.encoding {data.encoding} has no effect, since log and items are Parquet, whose text is always "
                "UTF-8; leave it out"
            )
        for name, text, files in (("format", data.format, log), ("items_format", data.items_format, items)):
            if text != TextFormat() and all(file.format in ("parquet", "jsonl") for file in files):
                raise BadInput(f"data.{name} has no effect, since {files[0].path} is no delimited text; leave it out")
        return Source(log, items, data.columns)
    for name in _OF_OWN_FILES:
        if getattr(data, name) != DataSettings.model_fields[name].default:
            raise BadInput(
                f"data.{name} has no effect with data.sample {data.sample}, whose files are known; leave it out or add "
                "--data.sample none for your own files"
            )
    found = {}
    for role, path in samples.fetch(data.sample).items():
        # The cache lies on this machine; the tasks may run on others, which see the run directory alone.
        found[role] = storage.join(work, path.name)
        storage.write_bytes(found[role], path.read_bytes())
    return Source(
        locate(found["interactions"], "interactions"),
        locate(found["items"], "items"),
        Columns(title="movie_title"),
        genres="class",
        separator=" ",
    )


def splits_by_time(data: DataSettings, source: Source) -> bool:
    """Whether the split is by global time (else each user's last two). Raises BadInput where that lacks a time."""
    timed = source.columns.time is not None
    if not timed and data.split == "time":
        raise BadInput(
            "data.split time needs a time, but data.columns.time is null; name the column, or set --data.split last_two"
        )
    return timed and data.split != "last_two"


def weight(file: SourceFile) -> int:
    """About how many bytes the file would have as plain text."""
    packed = file.format == "parquet" or file.path.lower().endswith(".gz")
    return file.size * (_PACKED if packed else 1)


def partitions(files: list[SourceFile]) -> int:
    """How many partitions a log gets: fixed by its bytes, so that no layout of workers can change a result."""
    return max(4, math.ceil(sum(weight(file) for file in files) / PARTITION_BYTES))
