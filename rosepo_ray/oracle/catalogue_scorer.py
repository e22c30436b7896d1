"""An oracle over a catalogue, whatever gives the scores: unknown items, folds, batches, version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.torch import save
from torch import Tensor

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.folds import fold_of
from rosepo_ray.oracle.protocol import Scores, refuse_temperature
from rosepo_ray.oracle.store import hash_of

_ROWS_AT_ONCE = 256
_SCORES_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class CatalogueScorer(ABC):
    """An item is known where its popularity in the oracle's training data is above 0."""

    kind: ClassVar[str]
    items: tuple[str, ...]
    popularity: tuple[np.ndarray, ...]
    """Per fold: training interactions of each item, int64 [N]."""
    temperature: float
    """T of P(chosen > rejected) = sigmoid((s_w - s_l) / T); 1.0 until fitted."""
    seed: int
    """Decides with the user's id which fold judges a user."""

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)
        if len(self.index) != len(self.items):
            raise RosepoError(f"the oracle's {len(self.items)} item ids hold duplicates")
        for counts in self.popularity:
            if counts.shape != (len(self.items),) or not (counts > 0).any():
                raise RosepoError("the oracle needs one popularity per item, and one item above 0 at least")

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Tensors by name; with :meth:`description` all that the oracle consists of."""

    def description(self) -> dict[str, Any]:
        """See :meth:`rosepo_ray.oracle.protocol.Oracle.description`."""
        return {
            "temperature": self.temperature,
            "folds": len(self.popularity),
            "seed": self.seed,
            "items": list(self.items),
            "popularity": [counts.tolist() for counts in self.popularity],
        }

    @cached_property
    def index(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.items)}

    @cached_property
    def version(self) -> str:
        return hash_of(save(self.weights()), {"kind": self.kind, **self.description()})

    def with_temperature(self, temperature: float) -> Self:
        """The same oracle with another T, and so with another version."""
        return replace(self, temperature=temperature)

    def score(
        self, user_ids: Sequence[str], histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]]
    ) -> Scores:
        """Unknown history items are skipped; a history of which nothing remains tells the sequential kinds nothing: all
        scores 0, nothing known."""
        if not len(user_ids) == len(histories) == len(items):
            raise RosepoError(f"{len(user_ids)} users, {len(histories)} histories and {len(items)} lists of items")
        scores = [np.zeros(len(row), np.float32) for row in items]
        known = [np.zeros(len(row), bool) for row in items]
        folds = [fold_of(user, len(self.popularity), self.seed) for user in user_ids]
        for fold in range(len(self.popularity)):
            mine = [row for row, judge in enumerate(folds) if judge == fold]
            for rows in _bounded(mine, [len(items[row]) for row in mine]):
                self._score_rows(fold, rows, histories, items, scores, known)
        return scores, known

    def _score_rows(
        self,
        fold: int,
        rows: list[int],
        histories: Sequence[Sequence[str]],
        items: Sequence[Sequence[str]],
        scores: list[np.ndarray],
        known: list[np.ndarray],
    ) -> None:
        counts = self.popularity[fold]
        lengths = [len(items[row]) for row in rows]
        places_S = np.array([self.index.get(item, -1) for row in rows for item in items[row]], dtype=np.int64)
        known_S = (places_S >= 0) & (counts[places_S] > 0) if len(places_S) else np.zeros(0, bool)
        pasts = [
            [p for item in histories[row] if (p := self.index.get(item, -1)) >= 0 and counts[p] > 0] for row in rows
        ]
        owner_S = np.repeat(np.arange(len(rows)), lengths)
        scores_S, told_B = self._raw(fold, pasts, owner_S, np.where(known_S, places_S, -1))
        known_S &= told_B[owner_S]
        for row, part, flag in zip(rows, _split(scores_S, lengths), _split(known_S, lengths), strict=True):
            scores[row], known[row] = part.astype(np.float32), flag

    @abstractmethod
    def _raw(
        self, fold: int, pasts: list[list[int]], owner_S: np.ndarray, places_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [S] of items `places_S` (-1 = the mean over known items) for the rows `owner_S` into `pasts`, and
        per row whether the oracle had anything to judge by, bool [B]."""


def common_fields(description: dict[str, Any]) -> dict[str, Any]:
    """What every scorer is built of, from its description."""
    return {
        "items": tuple(description["items"]),
        "popularity": tuple(np.array(counts, dtype=np.int64) for counts in description["popularity"]),
        "temperature": float(description["temperature"]),
        "seed": int(description["seed"]),
    }


def _split(values: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _bounded(rows: list[int], sizes: list[int]) -> list[list[int]]:
    """`rows` in order, cut so that no group has too many rows or scores (a row is never cut)."""
    groups: list[list[int]] = []
    room = 0
    for row, size in zip(rows, sizes, strict=True):
        if not groups or len(groups[-1]) == _ROWS_AT_ONCE or size > room:
            groups.append([])
            room = _SCORES_AT_ONCE
        groups[-1].append(row)
        room -= size
    return groups
