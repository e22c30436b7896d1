"""The default oracle: SASRec, one model for all users or two that were each trained without half of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.catalogue_scorer import CatalogueScorer, common_fields
from rosepo_ray.oracle.folds import training_users
from rosepo_ray.oracle.protocol import Making, ScoringOracle
from rosepo_ray.oracle.sasrec_net import SasRec, Shape
from rosepo_ray.seeds import derive


@ORACLES.kind
class Sasrec(ScoringOracle, FitSettings):
    """SASRec (Kang and McAuley 2018, arXiv:1808.09781) with a full-catalogue softmax."""

    type: Literal["sasrec"] = "sasrec"
    hidden: int = Field(64, ge=8)
    """Width."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout, drawn per row."""
    batch: int = Field(128, ge=1)
    """Windows per optimiser step."""
    micro_batch: int = Field(128, ge=1)
    """Windows per forward pass and worker at most."""
    steps: int = Field(600, ge=1)
    """Optimiser steps."""
    folds: Literal[1, 2] = 1
    """2 trains two halves by user and judges each pair by the half that did not train on it."""

    @model_validator(mode="after")
    def _divisible(self) -> Sasrec:
        if self.hidden % self.heads:
            raise ValueError(f"oracle.hidden {self.hidden} must be a multiple of oracle.heads {self.heads}")
        return self

    def shape(self, items: int, history: int) -> Shape:
        return Shape(items, history, self.hidden, self.layers, self.heads, self.dropout)

    def prepare(self, making: Making) -> SasrecScorer:
        """Trains one model per fold."""
        shape, seed = self.shape(len(making.item_ids), making.history), making.seed
        trained = [
            making.train(
                f"fold{fold}",
                partial(SasRec, shape, derive(seed, "fold", fold)),
                partial(training_users, fold=fold, folds=self.folds, seed=seed),
                self,
                self.steps,
            )
            for fold in range(self.folds)
        ]
        models, popularity = zip(*trained, strict=True)
        return SasrecScorer.build(models, making.item_ids, popularity, seed)

    @classmethod
    def load(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> SasrecScorer:
        shape, models = Shape(**description["shape"]), []
        for fold in range(description["folds"]):
            prefix = f"fold{fold}."
            model = SasRec(shape, seed=0)
            model.load_state_dict({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)})
            models.append(model.eval())
        return SasrecScorer(**common_fields(description), models=tuple(models))


@dataclass(frozen=True)
class SasrecScorer(CatalogueScorer):
    """One SASRec per fold; with two folds a user is judged by the one that did not train on the user."""

    kind: ClassVar[str] = "sasrec"
    models: tuple[SasRec, ...]

    @staticmethod
    def build(
        models: Sequence[SasRec], items: Sequence[str], popularity: Sequence[np.ndarray], seed: int
    ) -> SasrecScorer:
        """From trained models and, per model, the item counts of what it was trained on. T is 1 until fitted."""
        for model in models:
            model.eval()
        counts = tuple(np.asarray(part, dtype=np.int64) for part in popularity)
        return SasrecScorer(tuple(items), counts, 1.0, seed, tuple(models))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.models) != len(self.popularity) or any(m.shape.items != len(self.items) for m in self.models):
            raise RosepoError("the oracle needs one model and one list of popularities per fold, over the same items")

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
