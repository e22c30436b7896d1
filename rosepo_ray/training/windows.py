"""Training windows: users' sequences as flat arrays, cut anew each epoch. Dense SFT and the oracle learn from them.

In one epoch every item of a sequence but the first is a target exactly once. A sequence of n items has n - 1 targets;
they are cut into runs of `history`, except that the first run has 1 to `history` targets, drawn from hash(seed, epoch,
user). So over the epochs every target is met with every length of history, and short histories are trained too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.data.dense import first_run
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.seeds import derive


@dataclass(frozen=True)
class Sequences:
    """Users' item sequences without an object per item: user u took items[offsets[u]:offsets[u + 1]], oldest first.

    `items` counts from 1 in the order of the catalogue, which has `catalogue` items.
    """

    user_ids: pa.Array
    offsets: np.ndarray
    items: np.ndarray
    catalogue: int

    @staticmethod
    def from_table(table: pa.Table, item_ids: Sequence[str]) -> Sequences:
        """From the table `sequences`. Raises RosepoError for an item that is not among `item_ids`."""
        lists = table["items"].combine_chunks()
        flat = lists.flatten()
        found = pc.index_in(flat, value_set=pa.array(item_ids, type=flat.type))
        if found.null_count:
            stranger = flat.filter(pc.is_null(found))[0].as_py()
            raise RosepoError(f"table 'sequences' holds item '{stranger}', which table 'items' does not have")
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        return Sequences(
            user_ids=pa.array(table["user_id"].combine_chunks()),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=(found.to_numpy(zero_copy_only=False) + 1).astype(np.int32),
            catalogue=len(item_ids),
        )

    def select(self, users: np.ndarray) -> Sequences:
        """Only the users marked in `users`, bool [U]."""
        lengths = np.diff(self.offsets)
        return Sequences(
            user_ids=self.user_ids.filter(pa.array(users)),
            offsets=np.concatenate([[0], np.cumsum(lengths[users])]).astype(np.int64),
            items=self.items[np.repeat(users, lengths)],
            catalogue=self.catalogue,
        )

    def popularity(self) -> np.ndarray:
        """How often each item of the catalogue occurs: int64 [N]."""
        return np.bincount(self.items, minlength=self.catalogue + 1)[1:].astype(np.int64)


@dataclass(frozen=True)
class Cut:
    """The windows of one epoch, users in order and each user's windows in order: window w has the inputs
    [start[w], start[w] + length[w]) of user[w]'s sequence, and as targets the same moved by one."""

    user: np.ndarray
    start: np.ndarray
    length: np.ndarray


def cut(sequences: Sequences, user_keys: np.ndarray, history: int, epoch: int) -> Cut:
    """Cut every sequence of at least two items. `user_keys` [U] are hashes of (seed, user); see the module's text."""
    targets = np.maximum(np.diff(sequences.offsets) - 1, 0)
    first = np.minimum(first_run(user_keys, history, epoch), targets)
    counts = np.where(targets > 0, 1 + -(-(targets - first) // history), 0)
    user = np.repeat(np.arange(len(targets)), counts)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.where(rank == 0, 0, first[user] + (rank - 1) * history)
    end = np.minimum(first[user] + rank * history, targets[user])
    return Cut(user, start, end - start)


class Windows:
    """The windows of each epoch, named `user:start` within it."""

    def __init__(self, sequences: Sequences, history: int, seed: int) -> None:
        """Raises BadInput where no user has two items, since there is nothing to predict then."""
        self.sequences, self.history = sequences, history
        users = sequences.user_ids.to_pylist()
        self.keys = np.fromiter((derive(seed, "windows", user) for user in users), np.uint64, len(users))
        # Steps at the border of two epochs read both, so two cuts are kept.
        self.cut = lru_cache(maxsize=2)(lambda epoch: cut(sequences, self.keys, history, epoch))
        if not (np.diff(sequences.offsets) > 1).any():
            raise BadInput(
                f"none of the {len(users)} users has two items in the training split, so there is nothing to predict; "
                "give a longer log"
            )

    def row_ids(self, epoch: int) -> list[str]:
        """Ids of the windows of `epoch`, in the order of its cut; unique within the epoch."""
        windows = self.cut(epoch)
        users = self.sequences.user_ids.take(pa.array(windows.user))
        return pc.binary_join_element_wise(users, pa.array(windows.start).cast(pa.string()), ":").to_pylist()

    def row_id(self, epoch: int, index: int) -> str:
        windows = self.cut(epoch)
        return f"{self.sequences.user_ids[windows.user[index]]}:{windows.start[index]}"

    def window(self, epoch: int, index: int) -> np.ndarray:
        """The items (counted from 1) of one window: its first input and all its targets, [length + 1]."""
        windows = self.cut(epoch)
        begin = self.sequences.offsets[windows.user[index]] + windows.start[index]
        return self.sequences.items[begin : begin + windows.length[index] + 1]
