"""The oracle's answers: stored the moment they are given, gathered into the table `smoothing` at the end.

A run that is killed therefore asks no pair again whose answer it got, and the final table is the same however often
the run was interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.storage import done, tables

LOGGER = logging.getLogger(__name__)

_PART_ROWS = 1 << 16


class Answer(NamedTuple):
    rejected: list[str | None]
    epsilon: list[float]
    oracle_version: str
    scores: list[float] | None = None
    """The oracle's scores of the chosen and the rejected items; NaN where a text is no item. None where the objective
    has no use for them."""


def _working(stage: str) -> str:
    return storage.join(stage, "answers")


def store(stage: str, given: Mapping[str, Answer]) -> None:
    """Write answers by example_id as one part; the same pairs again write the same part."""
    if given:
        rows: list[dict[str, Any]] = [{"example_id": row, **answer._asdict()} for row, answer in given.items()]
        part = done.fingerprint(list(given))
        tables.write_part(_working(stage), "smoothing", part, tables.from_rows("smoothing", rows))


def stored(stage: str) -> dict[str, Answer]:
    """The answers that a stage under way has already got."""
    return table(_working(stage))


def table(stage: str) -> dict[str, Answer]:
    """A `smoothing` table by example_id."""
    found = tables.read(stage, "smoothing")
    columns = [found[name].to_pylist() for name in Answer._fields]
    answers = (Answer(*values) for values in zip(*columns, strict=True))
    return dict(zip(found["example_id"].to_pylist(), answers, strict=True))


def gather(stage: str, example_ids: Sequence[str]) -> pa.Table:
    """Leave the table `smoothing` of a trained stage, one row for each pair in the order of `example_ids`.

    Raises RosepoError where an answer is missing.
    """
    gathered = tables.read(stage, "smoothing")
    if gathered.num_rows == len(example_ids):  # killed after that: what is left of the answers counts no more
        storage.remove_folder(_working(stage))
        return gathered
    found = tables.read(_working(stage), "smoothing")
    places = pc.index_in(pa.array(example_ids), value_set=found["example_id"].combine_chunks())
    if places.null_count:
        raise RosepoError(
            f"{len(example_ids)} pairs were trained on, but {places.null_count} have no answer stored in {stage}; "
            "remove this folder and run again"
        )
    if again := found.num_rows - len(example_ids):
        LOGGER.info("%d pairs asked twice: their answers were lost, or two workers asked at once", again)
    found = found.take(places)
    for number, start in enumerate(range(0, found.num_rows, _PART_ROWS)):
        tables.write_part(stage, "smoothing", number, found[start : start + _PART_ROWS])
    storage.remove_folder(_working(stage))
    return found
