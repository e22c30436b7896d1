"""Training examples as positions of windows (`align.dense`): the positions of a window see its items from the first on,
so that one row of the language model holds them all.

A user's targets are cut into windows as :mod:`rosepo_ray.training.windows` cuts them: runs of `history`, the first of 1
to `history`, drawn from a hash. The window is fixed by the example's id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.seeds import derive, mix64


def first_run(user_keys: np.ndarray, history: int, epoch: int) -> np.ndarray:
    """How many targets the first window of each user has, 1 to `history`: int64 [U]."""
    mixed = mix64(user_keys.astype(np.uint64) ^ mix64(np.array([epoch + 1], dtype=np.uint64)))
    return 1 + (mixed % np.uint64(history)).astype(np.int64)


@dataclass(frozen=True)
class PairWindows:
    """Which window each training example belongs to."""

    history: int
    """Targets of a window at most, and so the longest history."""
    seed: int

    def starts(self, examples: pa.Table) -> np.ndarray:
        """The position of the first item that each example's window holds, int64 [rows]; `examples` has the columns
        `example_id` (user:position) and `user_id`."""
        encoded = pc.dictionary_encode(examples["user_id"].combine_chunks())
        users = encoded.dictionary.to_pylist()
        keys = np.fromiter((derive(self.seed, "pair windows", user) for user in users), np.uint64, len(users))
        first = first_run(keys, self.history, 0)[encoded.indices.to_numpy()]
        behind = positions(examples["example_id"].to_pylist()) - 1 - first
        return np.where(behind < 0, 0, first + behind // self.history * self.history)

    def names(self, examples: pa.Table) -> list[str]:
        """The name of each example's window."""
        users, starts = examples["user_id"].to_pylist(), self.starts(examples).tolist()
        return [f"{user}:{start}" for user, start in zip(users, starts, strict=True)]

    def cut(self, examples: pa.Table) -> pa.Table:
        """The rows with histories that begin with their window; only those of the training split are cut."""
        if not examples.num_rows:
            return examples
        shown = positions(examples["example_id"].to_pylist()) - self.starts(examples)
        lengths = pc.list_value_length(examples["history"]).to_numpy()
        train = pc.equal(examples["split"], "train").to_numpy(zero_copy_only=False)
        kept = np.where(train, np.minimum(shown, lengths), lengths)
        histories = examples["history"].combine_chunks()
        ends = np.cumsum(lengths)
        ramp = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        values = histories.flatten().take(pa.array(np.repeat(ends - kept, kept) + ramp))
        offsets = pa.array(np.concatenate([[0], np.cumsum(kept)]).astype(np.int32))
        cut = pa.ListArray.from_arrays(offsets, values).cast(examples.schema.field("history").type)
        return examples.set_column(examples.column_names.index("history"), "history", cut)


def positions(example_ids: Sequence[str]) -> np.ndarray:
    """The positions that the ids name, int64 [rows]."""
    return np.fromiter((int(name.rpartition(":")[2]) for name in example_ids), np.int64, len(example_ids))


def together(pairs: pa.Table) -> list[list[str]]:
    """The example ids of each window, in the order of the table, which has the columns `example_id`, `user_id` and the
    cut `history`."""
    starts = positions(pairs["example_id"].to_pylist()) - pc.list_value_length(pairs["history"]).to_numpy()
    windows: dict[tuple[str, int], list[str]] = {}
    for name, user, start in zip(pairs["example_id"].to_pylist(), pairs["user_id"].to_pylist(), starts, strict=True):
        windows.setdefault((user, int(start)), []).append(name)
    return list(windows.values())
