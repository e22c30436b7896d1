"""The stream that feeds alignment: pairs from Parquet, in training order, each with the oracle's answer.

Each training worker runs its own stream (Ray's automatic split hands blocks to the emptiest consumer, which would make
the order depend on timing). The rows are sorted into training order, then the oracle is asked batch by batch while the
worker trains on the batches before, as far ahead as the object store has room. Every answer is stored at once
(`answers`), so a run that was killed asks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.config.oracle import ConstantOracle
from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray import cluster, data_context
from rosepo_ray.oracle import answers
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


def rows(
    settings: Settings, pairs: str, example_ids: list[str], out: str, app_name: str | None
) -> Iterator[dict[str, Any]]:
    """The pairs called `example_ids`, in that order, as dictionaries with `epsilon` and `oracle_version`.

    Answers go to the alignment stage's folder `out`. `app_name` is the Serve app of the oracle; None where epsilon is
    constant or replayed.
    """
    import ray

    if not example_ids:
        return
    position = {row: number for number, row in enumerate(example_ids)}
    wanted = ray.put(pa.array(example_ids))

    def select(batch: pa.Table) -> pa.Table:
        places = pc.index_in(batch["example_id"], value_set=ray.get(wanted))
        return batch.append_column("place", places.cast(pa.int64())).filter(pc.is_valid(places))

    with data_context.data_context(slow_tasks=True):
        stream = (
            # A folder of the path called column=value means nothing.
            ray.data.read_parquet(
                tables.parts(pairs, "pairs"), columns=_COLUMNS, partitioning=None, num_cpus=cluster.READ_CPUS
            )
            .map_batches(select, batch_format="pyarrow", num_cpus=cluster.READ_CPUS)
            .sort("place")
            .map_batches(
                AskOracle,
                fn_constructor_args=(settings, out, app_name, run_log.target()),
                batch_size=_ASK_ROWS,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=cluster.READ_CPUS,
            )
        )
        for batch in stream.iter_batches(batch_size=_ASK_ROWS, batch_format="pyarrow", prefetch_batches=2):
            for row in batch.to_pylist():
                if row["place"] != len(example_ids) - len(position):
                    raise RosepoError(
                        f"the pair stream is out of order at {row['example_id']}; this is a bug, report it"
                    )
                del position[row["example_id"]]
                yield row
    if position:
        raise RosepoError(f"{len(position)} pairs are missing from {pairs}, among them {next(iter(position))}")


class AskOracle:
    """Adds epsilon to each pair: stored answers are kept, the others are asked of the oracle, one call per batch."""

    def __init__(self, settings: Settings, out: str, app_name: str | None, log: run_log.Target | None) -> None:
        from rosepo_ray.on_ray.oracle_client import OracleClient

        run_log.in_worker(log, "ask-oracle")
        self.settings, self.out = settings, out
        self.stored = answers.stored(out)
        replayed = {} if settings.align.replay is None else answers.table(settings.align.replay)
        if settings.align.replay is not None and not replayed:
            raise RosepoError(
                f"this node finds no smoothing table in align.replay '{settings.align.replay}'; every node must be "
                "able to read it"
            )
        self.known = replayed | self.stored
        self.client = None if app_name is None else OracleClient(app_name, batch=_ASK_ROWS)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.select(["example_id", "user_id", "history", "chosen", "rejected"]).to_pylist()
        found = {row["example_id"]: self.known[row["example_id"]] for row in rows if row["example_id"] in self.known}
        for row in rows:
            if row["example_id"] in found and found[row["example_id"]].rejected != row["rejected"]:
                raise RosepoError(
                    f"the stored smoothing of {row['example_id']} is for other rejected items: another run wrote it"
                )
        missing = [row for row in rows if row["example_id"] not in found]
        found |= self._ask(missing) if missing else {}
        fresh = {row["example_id"]: found[row["example_id"]] for row in rows if row["example_id"] not in self.stored}
        answers.store(self.out, fresh)
        epsilon = [found[row["example_id"]].epsilon for row in rows]
        versions = [found[row["example_id"]].oracle_version for row in rows]
        return batch.append_column("epsilon", pa.array(epsilon, pa.list_(pa.float32()))).append_column(
            "oracle_version", pa.array(versions, pa.string())
        )

    def _ask(self, missing: list[dict[str, Any]]) -> dict[str, answers.Answer]:
        from rosepo_ray.oracle import smoothing

        oracle = self.settings.oracle
        if isinstance(oracle, ConstantOracle) and self.settings.align.replay is None:
            label = f"constant:{oracle.epsilon:g}"
            return {
                row["example_id"]: answers.Answer(row["rejected"], [oracle.epsilon] * len(row["rejected"]), label)
                for row in missing
            }
        if self.client is None:
            raise RosepoError(
                f"align.replay holds no smoothing for {missing[0]['example_id']} and {len(missing) - 1} more of this "
                "batch; replay with the settings of the run that wrote it"
            )
        answer = self.client.judge(
            *[[row[name] for row in missing] for name in ("user_id", "history", "chosen", "rejected")]
        )
        found = {}
        for row, doubt, version in zip(missing, answer.disagreement, answer.versions, strict=True):
            is_item = np.array([item is not None for item in row["rejected"]])
            epsilon = smoothing.clip(doubt, is_item, self.settings.align.epsilon_max)
            found[row["example_id"]] = answers.Answer(row["rejected"], epsilon.tolist(), version)
        return found
