"""What an oracle is, and its two trained kinds. An oracle scores items for a user's history; higher is more likely."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.sasrec import SasRec, Shape
from rosepo_ray.seeds import derive

_ROWS_AT_ONCE = 256
_SCORES_AT_ONCE = 1 << 18

Scores = tuple[list[np.ndarray], list[np.ndarray]]


class Oracle(Protocol):
    """Anything that scores items for a user with a history."""

    @property
    def version(self) -> str: ...

    @property
    def temperature(self) -> float: ...

    def score(
        self, user_ids: Sequence[str], histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]]
    ) -> Scores: ...


@dataclass(frozen=True)
class _Scorer(ABC):
    """What the kinds share. An item is known where its popularity in the oracle's training data is above 0."""

    item_ids: tuple[str, ...]
    popularity: tuple[np.ndarray, ...]
    """Per fold: training interactions of each item, int64 [N]."""
    temperature: float
    """T of P(chosen > rejected) = sigmoid((s_w - s_l) / T); 1.0 until fitted."""
    seed: int
    """Decides with the user's id which fold judges a user."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise RosepoError(f"the oracle's temperature is {self.temperature}; it must be a positive number")
        if len(self.index) != len(self.item_ids):
            raise RosepoError(f"the oracle's {len(self.item_ids)} item ids hold duplicates")
        for counts in self.popularity:
            if counts.shape != (len(self.item_ids),) or not (counts > 0).any():
                raise RosepoError("the oracle needs one popularity per item, and one item above 0 at least")

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Tensors by name; with :meth:`description` all that the oracle consists of."""

    def description(self) -> dict[str, Any]:
        """What `oracle.json` holds beside the version."""
        return {
            "kind": self.kind,
            "temperature": self.temperature,
            "folds": len(self.popularity),
            "seed": self.seed,
            "items": list(self.item_ids),
            "popularity": [counts.tolist() for counts in self.popularity],
        }

    @cached_property
    def index(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.item_ids)}

    @cached_property
    def version(self) -> str:
        return version_of(save(self.weights()), self.description())

    def with_temperature(self, temperature: float) -> Self:
        """The same oracle with another T, and so with another version."""
        return replace(self, temperature=temperature)

    def score(
        self, user_ids: Sequence[str], histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]]
    ) -> Scores:
        """Per row a float32 [n items] of scores and a bool [n items] of which were known, in the rows' order.

        An unknown item gets the mean score of all known items for that history. Unknown history items are skipped; a
        history of which nothing remains tells the sequential kinds nothing: all scores 0, nothing known.
        """
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


@dataclass(frozen=True)
class PopularityScorer(_Scorer):
    """s(u, y) = log(1 + popularity of y): the same for every user."""

    @property
    def kind(self) -> str:
        return "popularity"

    def weights(self) -> dict[str, Tensor]:
        return {}

    def _raw(
        self, fold: int, pasts: list[list[int]], owner_S: np.ndarray, places_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        counts = self.popularity[fold]
        values_N = np.log1p(counts)
        return np.append(values_N, values_N[counts > 0].mean())[places_S], np.ones(len(pasts), bool)


@dataclass(frozen=True)
class SasrecScorer(_Scorer):
    """One SASRec per fold; with two folds a user is judged by the one that did not train on the user."""

    models: tuple[SasRec, ...]

    @staticmethod
    def build(
        models: Sequence[SasRec], item_ids: Sequence[str], popularity: Sequence[np.ndarray], seed: int
    ) -> SasrecScorer:
        """From trained models and, per model, the item counts of what it was trained on. T is 1 until fitted."""
        for model in models:
            model.eval()
        counts = tuple(np.asarray(part, dtype=np.int64) for part in popularity)
        return SasrecScorer(tuple(item_ids), counts, 1.0, seed, tuple(models))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.models) != len(self.popularity) or any(m.shape.items != len(self.item_ids) for m in self.models):
            raise RosepoError("the oracle needs one model and one list of popularities per fold, over the same items")

    @property
    def kind(self) -> str:
        return "sasrec"

    @property
    def shape(self) -> Shape:
        return self.models[0].shape

    def weights(self) -> dict[str, Tensor]:
        return {
            f"fold{number}.{name}": value.detach().cpu().contiguous()
            for number, model in enumerate(self.models)
            for name, value in model.state_dict().items()
        }

    def description(self) -> dict[str, Any]:
        return super().description() | {"shape": self.shape.as_dict()}

    @cached_property
    @torch.inference_mode()
    def _means_H(self) -> list[Tensor]:
        """Per fold the mean embedding of its known items, over the whole catalogue: once, and not in every call."""
        return [
            model.item_embedding.weight[1:][torch.from_numpy(counts > 0)].mean(0)
            for model, counts in zip(self.models, self.popularity, strict=True)
        ]

    @torch.inference_mode()
    def _raw(
        self, fold: int, pasts: list[list[int]], owner_S: np.ndarray, places_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        model, history = self.models[fold], self.shape.history
        items_BT = torch.zeros(len(pasts), history, dtype=torch.int64)
        for row, past in enumerate(pasts):
            recent = past[-history:]
            if recent:
                items_BT[row, -len(recent) :] = torch.tensor(recent) + 1
        told_B = items_BT[:, -1] > 0
        states_BH = model.states(items_BT)[:, -1] * told_B[:, None]
        vectors_SH = model.item_embedding.weight[torch.from_numpy(places_S + 1)]
        vectors_SH[torch.from_numpy(places_S < 0)] = self._means_H[fold]
        scores_S = (states_BH[torch.from_numpy(owner_S)] * vectors_SH).sum(-1)
        return scores_S.numpy(), told_B.numpy()


def fold_of(user_id: str, folds: int, seed: int) -> int:
    """The fold whose model judges this user."""
    return derive(seed, "oracle fold", user_id) % folds


def training_users(user_ids: Sequence[str], fold: int, folds: int, seed: int) -> np.ndarray:
    """Which users the model of `fold` learns from, bool [U]: with one fold all, else those that others judge."""
    if folds == 1:
        return np.ones(len(user_ids), bool)
    return np.array([fold_of(user, folds, seed) != fold for user in user_ids], dtype=bool)


def version_of(weights: bytes, description: dict[str, Any]) -> str:
    """The first 12 hexadecimal digits of SHA-256 over the safetensors bytes and the description."""
    canonical = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(weights + b"\0" + canonical).hexdigest()[:12]


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
