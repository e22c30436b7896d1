"""Candidate sets: the target and others drawn uniformly from the catalogue, fixed by (data.seed, user, position).

The draws come from SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195) used as a counter-based
generator: draw j of a row depends on nothing but the row's seed and j, for all rows at once, the same with every NumPy.
"""

from __future__ import annotations

import numpy as np

from rosepo_ray.seeds import mix64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_CELLS = 1 << 21  # draws looked at in one go


def row_seeds(user_seeds_E: np.ndarray, positions_E: np.ndarray) -> np.ndarray:
    """Seeds uint64 [E] of rows from the seeds of their users and their positions."""
    return mix64(user_seeds_E.astype(np.uint64) + _GAMMA * (positions_E.astype(np.uint64) + np.uint64(1)))


def draws(seeds_E: np.ndarray, first: int, count: int, size: int) -> np.ndarray:
    """Draws first .. first+count-1 of each row, uniform over 0 .. size-1, int64 [E, count] (bias below size / 2^53)."""
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    bits = mix64(seeds_E[:, None] + _GAMMA * counters[None, :]) >> np.uint64(11)
    return (bits.astype(np.float64) * (size / 2.0**53)).astype(np.int64)


def _fresh(drawn: np.ndarray) -> np.ndarray:
    """Mask [E, M] of the draws that did not come earlier in their row."""
    fresh = np.ones(drawn.shape, bool)
    ordered = np.sort(drawn, axis=1)
    again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(again):
        order = np.argsort(drawn[again], axis=1, kind="stable")
        ranked = np.take_along_axis(drawn[again], order, axis=1)
        first = np.ones(ranked.shape, bool)
        first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        unsorted = np.empty_like(first)
        np.put_along_axis(unsorted, order, first, axis=1)
        fresh[again] = unsorted
    return fresh


def others(seeds_E: np.ndarray, users_E: np.ndarray, banned_UN: np.ndarray, count: int) -> np.ndarray:
    """`count` distinct items per row that its user may be offered, int32 [E, count], in the order drawn.

    `banned_UN` is a bool matrix over users and the catalogue; `users_E` are its rows. Uniform without replacement:
    draws that are banned or came before are passed over. Every user needs at least `count` items that are not banned.
    """
    size = banned_UN.shape[1]
    chosen = np.empty((len(seeds_E), count), np.int32)
    waiting = np.arange(len(seeds_E))
    looked = count + max(4, count // 4)
    while len(waiting):
        unlucky = []
        step = max(1, _CELLS // looked)
        for start in range(0, len(waiting), step):
            rows = waiting[start : start + step]
            drawn = draws(seeds_E[rows], 0, looked, size)
            good = ~banned_UN[users_E[rows][:, None], drawn] & _fresh(drawn)
            place = np.cumsum(good, axis=1)
            done = place[:, -1] >= count
            good &= (place <= count) & done[:, None]
            chosen[rows[done]] = drawn[good].reshape(-1, count)
            unlucky.append(rows[~done])
        waiting, looked = np.concatenate(unlucky), looked * 2
    return chosen


def with_target(seeds_E: np.ndarray, others_EC: np.ndarray, targets_E: np.ndarray) -> np.ndarray:
    """Candidate sets int32 [E, C+1]: the target goes to a place drawn from the row's seed; the others keep their order,
    which is random already."""
    rows, count = others_EC.shape
    slots = draws(mix64(~seeds_E), 0, 1, count + 1)[:, 0]
    columns = np.arange(count)[None, :]
    placed = np.empty((rows, count + 1), np.int32)
    np.put_along_axis(placed, columns + (columns >= slots[:, None]), others_EC, axis=1)
    np.put_along_axis(placed, slots[:, None], targets_E[:, None].astype(np.int32), axis=1)
    return placed
