"""The stream that feeds alignment: pairs from Parquet, in training order, each with the oracle's answer.

Each training worker runs its own stream (Ray's automatic split hands blocks to the emptiest consumer, which would make
the order depend on timing). The rows are sorted into training order, then the oracle is asked batch by batch while the
worker trains on the batches before, as far ahead as the object store has room. Every answer is stored at once
(`answers`), so a run that was killed asks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray import cluster, data_context, oracle_service
from rosepo_ray.on_ray.oracle_client import OracleClient
from rosepo_ray.oracle import answers, judging, store
from rosepo_ray.oracle.protocol import Judge, OracleSettings
from rosepo_ray.process import run_log
from rosepo_ray.storage import tables

_COLUMNS = [
    "example_id",
    "user_id",
    "history",
    "candidates",
    "chosen",
    "rejected",
    "rejected_text",
    "ref_chosen_logp",
    "ref_rejected_logps",
]
_ASK_ROWS = 128


@dataclass(frozen=True)
class PairStream:
    """Called with example_ids it gives these pairs in that order, as dictionaries with `epsilon`, `oracle_version`
    and, where they are needed, `oracle_scores`. Travels to the training workers."""

    pairs: str
    out: str
    """The alignment stage's folder, where the answers are stored."""
    oracle: OracleSettings
    needs: frozenset[str]
    """What the objective wants to know of each pair."""
    asked: str | None
    """Folder of the oracle that is asked; None where none is."""
    app: str | None
    """The Serve app that hosts it; None where each stream asks for itself."""

    def await_oracle(self) -> None:
        """Wait until the oracle can answer. Raises RosepoError where it does not come up."""
        if self.app is not None:
            oracle_service.await_running(self.app)

    def judge(self) -> Judge | None:
        """What asks the oracle, where there is one to be asked."""
        if self.app is not None:
            return OracleClient(self.app, batch=_ASK_ROWS).judge
        return None if self.asked is None else judging.here(store.load(self.asked))

    def __call__(self, example_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        if not example_ids:
            return
        wanted = ray.put(_places(example_ids))
        with data_context.data_context(slow_tasks=True):
            stream = (
                ray.data.read_parquet(
                    [storage.filesystem(part)[1] for part in tables.parts(self.pairs, "pairs")],
                    filesystem=storage.filesystem(self.pairs)[0],
                    columns=_COLUMNS,
                    partitioning=None,  # a folder `user_id=5` means nothing, nor does a `?` before the suffix
                    file_extensions=None,
                    num_cpus=cluster.READ_CPUS,
                )
                .map_batches(_select, fn_args=(wanted,), batch_format="pyarrow", num_cpus=cluster.READ_CPUS)
                .sort("place")
                .map_batches(
                    AskOracle,
                    fn_constructor_args=(self, run_log.target()),
                    batch_size=_ASK_ROWS,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(size=1),
                    num_cpus=cluster.READ_CPUS,
                )
            )
            given = 0
            for batch in stream.iter_batches(batch_size=_ASK_ROWS, batch_format="pyarrow", prefetch_batches=2):
                for row in batch.to_pylist():
                    if row["place"] != given or row["example_id"] != example_ids[given]:
                        raise RosepoError(
                            f"the pair stream gives {row['example_id']} at place {given}, where "
                            f"{example_ids[given]} belongs: {self.pairs} lacks it, or this is a bug, to be reported"
                        )
                    given += 1
                    yield row
        if given < len(example_ids):
            raise RosepoError(
                f"{len(example_ids) - given} pairs are missing from {self.pairs}, {example_ids[given]} first"
            )


def _places(example_ids: Sequence[str]) -> pa.Table:
    """The distinct ids, each with the places in the stream where it belongs."""
    table = pa.table({"example_id": pa.array(example_ids), "place": pa.array(np.arange(len(example_ids)))})
    return table.group_by("example_id").aggregate([("place", "list")])


def _select(batch: pa.Table, wanted: ray.ObjectRef) -> pa.Table:
    """The rows of a batch that belong in the stream, once for every place."""
    places = ray.get(wanted)
    index = pc.index_in(batch["example_id"], value_set=places["example_id"].combine_chunks())
    lists = places["place_list"].combine_chunks().take(index.combine_chunks())
    rows = batch.take(pc.list_parent_indices(lists))
    return rows.append_column("place", pc.list_flatten(lists))


class AskOracle:
    """Adds what the objective needs of the oracle: stored answers stay, the others are asked, one call per batch."""

    def __init__(self, stream: PairStream, log: run_log.Target | None) -> None:
        run_log.in_worker(log, "ask-oracle")
        self.oracle, self.out = stream.oracle, stream.out
        self.epsilon, self.scores = "epsilon" in stream.needs, "oracle_scores" in stream.needs
        self.stored = answers.stored(self.out)
        self.judge = stream.judge()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not (self.epsilon or self.scores):
            return batch
        rows = batch.select(["example_id", "user_id", "history", "chosen", "rejected"]).to_pylist()
        missing = {row["example_id"]: row for row in rows if row["example_id"] not in self.stored}
        fresh = self._ask(list(missing.values())) if missing else {}
        found = [fresh.get(row["example_id"]) or self.stored[row["example_id"]] for row in rows]
        for row, answer in zip(rows, found, strict=True):
            if answer.rejected != row["rejected"]:
                raise RosepoError(
                    f"the stored smoothing of {row['example_id']} is for other rejected items: another run wrote it"
                )
        answers.store(self.out, fresh)
        self.stored |= fresh
        columns = {"epsilon": pa.array([answer.epsilon for answer in found], pa.list_(pa.float32()))}
        if self.scores:
            columns["oracle_scores"] = pa.array([answer.scores for answer in found], pa.list_(pa.float32()))
        columns["oracle_version"] = pa.array([answer.oracle_version for answer in found], pa.string())
        for name, column in columns.items():
            batch = batch.append_column(name, column)
        return batch

    def _ask(self, missing: list[dict[str, Any]]) -> dict[str, answers.Answer]:
        given = self.oracle.epsilon_of(missing, self.judge)
        if not self.scores:
            return {name: answer._replace(scores=None) for name, answer in given.items()}
        if without := [name for name, answer in given.items() if answer.scores is None]:
            raise RosepoError(
                f"the objective needs the oracle's scores, and oracle.type {self.oracle.type} has none of "
                f"{without[0]}; take one that scores items"
            )
        return given
