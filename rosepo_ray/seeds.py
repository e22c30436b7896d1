"""Randomness that depends on (seed, row, purpose) alone, so that no layout of workers can change a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit number fixed by `seed` and `parts` (row ids, a purpose); equal on every machine and Python."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *parts)))


def hash_order(seed: int, epoch: int, row_ids: Iterable[str]) -> np.ndarray:
    """Indices [N] that sort rows by hash(seed, epoch, row id): the training order of DESIGN section 3."""
    keys = np.fromiter((derive(seed, "order", epoch, row) for row in row_ids), dtype=np.int64)
    return np.argsort(keys, kind="stable")


def tie_break(row_id: str, item_ids: Iterable[str]) -> np.ndarray:
    """One number per item [N]; equal scores are ordered by it, so list order never decides a metric."""
    return np.fromiter((derive(0, "tie", row_id, item) for item in item_ids), dtype=np.int64)


def mix64(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) on uint64 values of any shape: a bijection that scatters."""
    z = values.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
