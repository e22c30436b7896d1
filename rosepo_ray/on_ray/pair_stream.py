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
from rosepo_ray.oracle import answers, smoothing
from rosepo_ray.oracle.kinds import Constant, OracleSettings, Replay, ScoringOracle
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
    """Called with example_ids it gives these pairs in that order, as dictionaries with `epsilon` and `oracle_version`.
    Travels to the training workers."""

    pairs: str
    out: str
    """The alignment stage's folder, where the answers are stored."""
    oracle: OracleSettings
    needs: frozenset[str]
    """What the objective wants to know of each pair."""
    app: str | None
    """The Serve app of the oracle; None where nothing hosts it."""

    def await_oracle(self) -> None:
        """Wait until the oracle can answer. Raises RosepoError where it does not come up."""
        if self.app is not None:
            oracle_service.await_running(self.app)

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
    """Adds epsilon to each pair: stored answers are kept, the others are asked of the oracle, one call per batch."""

    def __init__(self, stream: PairStream, log: run_log.Target | None) -> None:
        run_log.in_worker(log, "ask-oracle")
        self.oracle, self.needs, self.out = stream.oracle, stream.needs, stream.out
        self.stored = answers.stored(self.out)
        replayed = answers.table(self.oracle.folder) if isinstance(self.oracle, Replay) else {}
        if isinstance(self.oracle, Replay) and not replayed:
            raise RosepoError(
                f"this node finds no smoothing table in oracle.folder '{self.oracle.folder}'; every node must be able "
                "to read it"
            )
        self.known = replayed | self.stored
        self.client = None if stream.app is None else OracleClient(stream.app, batch=_ASK_ROWS)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if "epsilon" not in self.needs:
            return batch
        rows = batch.select(["example_id", "user_id", "history", "chosen", "rejected"]).to_pylist()
        for row in rows:
            if row["example_id"] in self.known and self.known[row["example_id"]].rejected != row["rejected"]:
                raise RosepoError(
                    f"the stored smoothing of {row['example_id']} is for other rejected items: another run wrote it"
                )
        missing = {row["example_id"]: row for row in rows if row["example_id"] not in self.known}
        if missing:
            self.known |= self._ask(list(missing.values()))
        found = [self.known[row["example_id"]] for row in rows]
        fresh = {
            row["example_id"]: self.known[row["example_id"]] for row in rows if row["example_id"] not in self.stored
        }
        answers.store(self.out, fresh)
        self.stored |= fresh
        return batch.append_column(
            "epsilon", pa.array([answer.epsilon for answer in found], pa.list_(pa.float32()))
        ).append_column("oracle_version", pa.array([answer.oracle_version for answer in found], pa.string()))

    def _ask(self, missing: list[dict[str, Any]]) -> dict[str, answers.Answer]:
        if isinstance(self.oracle, Constant):
            constant, label = self.oracle.epsilon, f"constant:{self.oracle.epsilon:g}"
            return {
                row["example_id"]: answers.Answer(row["rejected"], [constant] * len(row["rejected"]), label)
                for row in missing
            }
        if self.client is None or not isinstance(self.oracle, ScoringOracle):
            raise RosepoError(
                f"the replayed table holds no smoothing for {missing[0]['example_id']} and {len(missing) - 1} more of "
                "this batch; replay with the settings of the run that wrote it"
            )
        answer = self.client.judge(
            *[[row[name] for row in missing] for name in ("user_id", "history", "chosen", "rejected")]
        )
        found = {}
        for row, doubt, version in zip(missing, answer.disagreement, answer.versions, strict=True):
            is_item = np.array([item is not None for item in row["rejected"]])
            epsilon = smoothing.clip(doubt, is_item, self.oracle.epsilon_max)
            found[row["example_id"]] = answers.Answer(row["rejected"], epsilon.tolist(), version)
        return found
