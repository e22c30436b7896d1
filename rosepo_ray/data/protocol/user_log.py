"""The log of one partition of users: ordered, each event once, with what the rating filter keeps."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.data.reading import parse_columns
from rosepo_ray.errors import BadInput

ROWS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item", pa.int32()),  # index into the items sorted by id; -1 where the items file lacks it
        ("timestamp", pa.int64()),
        ("time_kind", pa.uint8()),
        ("rating", pa.float32()),
        ("row", pa.int64()),
    ]
)
"""Rows on their way into partitions."""

STORED = pa.schema(
    [
        ("user_id", pa.string()),
        ("item", pa.int32()),
        ("timestamp", pa.int64()),
        ("kept", pa.bool_()),
    ]
)


def partition_of(users: pa.Array | pa.ChunkedArray, count: int) -> np.ndarray:
    """Partition 0 .. count-1 of each user id, int64 [N]; a stable hash, the same on every machine."""
    encoded = pc.dictionary_encode(parse_columns.flat(users))
    hashes = np.fromiter((zlib.crc32(u.encode()) for u in encoded.dictionary.to_pylist()), np.int64)
    return hashes[encoded.indices.to_numpy()] % count


@dataclass(frozen=True)
class UserLog:
    """Interactions [N] sorted by user id and time, equal times by the input row where the log is one file, else
    by item; U users sorted by id."""

    users: list[str]
    user_N: np.ndarray
    """Index into `users`."""
    item_N: np.ndarray
    """Index into the items sorted by id."""
    time_N: np.ndarray
    kept_N: np.ndarray
    """Whether the rating filter keeps the interaction as history and target."""

    @property
    def kept_lengths(self) -> np.ndarray:
        """Kept interactions of each user [U]."""
        return np.bincount(self.user_N[self.kept_N], minlength=len(self.users))

    @property
    def new_N(self) -> np.ndarray:
        """Whether an interaction is its user's first with its item."""
        mask = np.zeros(len(self.user_N), bool)
        pairs = self.user_N.astype(np.int64) * (self.item_N.max(initial=0) + 1) + self.item_N
        mask[np.unique(pairs, return_index=True)[1]] = True
        return mask

    def to_table(self) -> pa.Table:
        users = pa.array(self.users, pa.string()).take(pa.array(self.user_N))
        return pa.table([users, self.item_N, self.time_N, self.kept_N], schema=STORED)

    @staticmethod
    def from_table(table: pa.Table) -> UserLog:
        """The inverse of `to_table`: the users come sorted."""
        encoded = pc.dictionary_encode(parse_columns.flat(table["user_id"]))
        return UserLog(
            encoded.dictionary.to_pylist(),
            encoded.indices.to_numpy(),
            *(table[name].to_numpy() for name in ("item", "timestamp", "kept")),
        )


def order(
    rows: pa.Table, *, items: int, one_file: bool, min_rating: float | None, fractions: bool, repeats: bool
) -> tuple[UserLog, int, np.ndarray]:
    """The log of the users in `rows` (schema ROWS, any order), the number of duplicates dropped, and the ratings [N].

    Of the interactions of one user with one item the first counts, before the rating filter: a later, better rating
    makes it no new event. With `repeats` each counts that has another time.
    `fractions`: some time of the log has decimals, so whole times are scaled like those.
    Rows are identified by value alone, so neither the order of `rows` nor the layout of files matters, except for
    the input row where the log is one file.
    """
    encoded = pc.dictionary_encode(parse_columns.flat(rows["user_id"]))
    ranked = pc.sort_indices(encoded.dictionary).to_numpy()
    users = encoded.dictionary.take(pa.array(ranked)).to_pylist()
    rank = np.empty(len(ranked), np.int32)
    rank[ranked] = np.arange(len(ranked), dtype=np.int32)
    user, item = rank[encoded.indices.to_numpy()], rows["item"].to_numpy()
    time, rating = rows["timestamp"].to_numpy(), rows["rating"].to_numpy()  # a null rating becomes NaN
    if fractions:
        time = _scaled(time, rows["time_kind"].to_numpy())
    tie = rows["row"].to_numpy() if one_file else item.astype(np.int64)
    # Copies of one event in several files may differ in the rating alone; then the lowest comes first.
    order_N = np.lexsort((tie, time, user)) if one_file else np.lexsort((rating, tie, time, user))
    once_N = user[order_N].astype(np.int64)  # within which an item counts once
    if repeats:
        once_N = np.cumsum((np.diff(once_N, prepend=-1) != 0) | (np.diff(time[order_N], prepend=0) != 0))
    _, first = np.unique(once_N * items + item[order_N], return_index=True)
    chosen = order_N[np.sort(first)]
    kept = np.ones(len(chosen), bool) if min_rating is None else rating[chosen] >= np.float32(min_rating)
    log = UserLog(users, user[chosen], item[chosen], time[chosen], kept)
    return log, len(order_N) - len(chosen), rating[chosen]


def _scaled(time: np.ndarray, kind: np.ndarray) -> np.ndarray:
    whole = kind == parse_columns.INTEGER
    if np.abs(time[whole]).max(initial=0) > np.iinfo(np.int64).max // parse_columns.FRACTION_SCALE:
        raise BadInput(
            "some times of the log have decimals while others are too large to be counted in millionths; "
            "write all times as whole numbers"
        )
    return np.where(whole, time * parse_columns.FRACTION_SCALE, time)
