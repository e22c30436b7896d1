"""The oracle that knows no user: the most popular item is the most likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.oracle.catalogue_scorer import CatalogueScorer, common_fields
from rosepo_ray.oracle.protocol import Making, ScoringOracle


@ORACLES.kind
class Popularity(ScoringOracle):
    """Scores an item by log(1 + its training interactions)."""

    type: Literal["popularity"] = "popularity"

    def prepare(self, making: Making) -> PopularityScorer:
        return PopularityScorer(making.item_ids, (making.popularity,), 1.0, making.seed)

    @classmethod
    def load(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> PopularityScorer:
        return PopularityScorer(**common_fields(description))


@dataclass(frozen=True)
class PopularityScorer(CatalogueScorer):
    """s(u, y) = log(1 + popularity of y): the same for every user."""

    kind: ClassVar[str] = "popularity"

    def weights(self) -> dict[str, Tensor]:
        return {}

    def _raw(
        self, fold: int, pasts: list[list[int]], owner_S: np.ndarray, places_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        counts = self.popularity[fold]
        values_N = np.log1p(counts)
        return np.append(values_N, values_N[counts > 0].mean())[places_S], np.ones(len(pasts), bool)
