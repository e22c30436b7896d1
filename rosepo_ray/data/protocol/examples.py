"""The tables `sequences`, `taken` and `examples` of one partition of users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rosepo_ray import seeds
from rosepo_ray.data.protocol import candidates, split
from rosepo_ray.data.protocol.user_log import UserLog
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import schemas

_CELLS = 1 << 25
"""Users times items that are looked at together when candidates are drawn (bytes)."""


@dataclass(frozen=True)
class Splits:
    """Of each interaction [N]: its split, and whether it lies before the end of the training split."""

    split_N: np.ndarray
    training_N: np.ndarray


@dataclass(frozen=True)
class Tables:
    sequences: pa.Table
    taken: pa.Table
    examples: pa.Table
    popularity: np.ndarray
    """Kept training interactions of each item."""


def split_by_time(log: UserLog, validation: int, test: int) -> Splits:
    """Training is what comes before the time `validation`, test what does not come before `test`."""
    training_N = log.time_N < validation
    parts = np.where(training_N, split.TRAIN, np.where(log.time_N < test, split.VALIDATION, split.TEST))
    return Splits(parts.astype(np.uint8), training_N)


def split_last_two(log: UserLog) -> Splits:
    """By each user's kept interactions; what was not kept belongs to the split that was running at that point."""
    kept = np.flatnonzero(log.kept_N)
    parts = split.last_two(log.kept_lengths)
    split_N = np.full(len(log.user_N), split.TRAIN, np.uint8)
    for part in (split.VALIDATION, split.TEST):
        starts = np.full(len(log.users), len(log.user_N))
        rows = kept[parts == part]
        starts[log.user_N[rows]] = rows
        split_N[np.arange(len(split_N)) >= starts[log.user_N]] = part
    return Splits(split_N, split_N == split.TRAIN)


def build(
    log: UserLog, splits: Splits, item_ids: pa.Array, *, history: int, count: int, seed: int, repeats: bool
) -> Tables:
    """Every kept interaction but a user's first is the target of one example; `count` is the size of a candidate set.
    With `repeats` users take items again, so a ranking of the whole catalogue leaves out none.

    Raises BadInput for a user who has taken so many items that too few are left to draw from.
    """
    kept = np.flatnonzero(log.kept_N)
    user_K, item_K = log.user_N[kept], log.item_N[kept]
    starts_K = np.searchsorted(user_K, user_K)
    position_K = np.arange(len(kept)) - starts_K
    rows = np.flatnonzero(position_K > 0)  # examples, as indices into the kept
    user_E, position_E, part_E = user_K[rows], position_K[rows], splits.split_N[kept[rows]]
    placed = _candidates(log, splits, user_E, position_E, item_K[rows], part_E, len(item_ids), count, seed)

    users = pa.array(log.users, pa.string())
    history_E = np.minimum(position_E, history)
    window = np.repeat(rows - history_E, history_E) + _ramp(history_E)
    user_ids = users.take(pa.array(user_E))
    ids = [f"{user}:{place}" for user, place in zip(user_ids.to_pylist(), position_E.tolist(), strict=True)]
    examples = pa.table(
        {
            "example_id": ids,
            "user_id": user_ids,
            "history": _lists(history_E, item_K[window], item_ids),
            "target": item_ids.take(pa.array(item_K[rows])),
            "candidates": _lists(np.full(len(rows), count), placed.ravel(), item_ids),
            "split": pa.array(split.NAMES, pa.string()).take(pa.array(part_E)),
            "seen": pa.array((kept[rows] - np.searchsorted(log.user_N, user_E)) * (not repeats), pa.int32()),
        },
        schema=schemas.SCHEMAS["examples"],
    )
    training = log.kept_N & (splits.split_N == split.TRAIN)
    lengths = np.bincount(log.user_N[training], minlength=len(users))
    present = np.flatnonzero(lengths)
    sequences = pa.table(
        {"user_id": users.take(pa.array(present)), "items": _lists(lengths[present], log.item_N[training], item_ids)},
        schema=schemas.SCHEMAS["sequences"],
    )
    new_N = log.new_N
    early_N = splits.training_N & new_N
    taken = pa.table(
        {
            "user_id": users,
            "training": _lists(np.bincount(log.user_N[early_N], minlength=len(users)), log.item_N[early_N], item_ids),
            "whole": _lists(np.bincount(log.user_N[new_N], minlength=len(users)), log.item_N[new_N], item_ids),
        },
        schema=schemas.SCHEMAS["taken"],
    )
    popularity = np.bincount(log.item_N[training], minlength=len(item_ids))
    return Tables(sequences, taken, examples, popularity)


def _ramp(lengths: np.ndarray) -> np.ndarray:
    """0 .. l-1 for each l, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _lists(lengths: np.ndarray, items: np.ndarray, item_ids: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), item_ids.take(pa.array(items)))


def _candidates(
    log: UserLog,
    splits: Splits,
    user_E: np.ndarray,
    position_E: np.ndarray,
    target_E: np.ndarray,
    part_E: np.ndarray,
    items: int,
    count: int,
    seed: int,
) -> np.ndarray:
    """Candidate sets int32 [E, count]. Training rows avoid what the user did before the split's end (the rest would
    leak the future), the others all that the user ever did; the target is among both, so it never steers a draw."""
    _check_room(log, user_E, items, count)
    user_seeds = np.array([seeds.derive(seed, "candidates", user) for user in log.users], np.uint64)
    row_seeds = candidates.row_seeds(user_seeds[user_E], position_E)
    drawn = np.empty((len(user_E), count - 1), np.int32)
    step = max(1, _CELLS // items)
    banned = np.zeros((min(step, len(log.users)), items), bool)
    for first in range(0, len(log.users), step):
        mine = slice(*np.searchsorted(log.user_N, [first, first + step]))
        rows = slice(*np.searchsorted(user_E, [first, first + step]))
        who, what, early = log.user_N[mine] - first, log.item_N[mine], splits.training_N[mine]
        train = part_E[rows] == split.TRAIN
        for those, group in ((early, train), (~early, ~train)):  # the second round adds to the first
            banned[who[those], what[those]] = True
            chosen = np.flatnonzero(group) + rows.start
            drawn[chosen] = candidates.others(row_seeds[chosen], user_E[chosen] - first, banned, count - 1)
        banned[who, what] = False
    return candidates.with_target(row_seeds, drawn, target_E)


def _check_room(log: UserLog, user_E: np.ndarray, items: int, count: int) -> None:
    took = np.bincount(log.user_N[log.new_N], minlength=len(log.users))
    tight = np.intersect1d(np.flatnonzero(items - took < count - 1), user_E)
    if len(tight):
        worst = tight[np.argmax(took[tight])]
        raise BadInput(
            f"user '{log.users[worst]}' took {took[worst]} of the {items} items, which leaves {items - took[worst]} "
            f"for candidate sets of {count} (target included); lower --data.candidates to "
            f"{items - int(took[worst]) + 1} or leave such users out with --data.max_per_user"
        )
