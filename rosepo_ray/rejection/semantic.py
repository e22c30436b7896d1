"""`semantic`: the item never taken whose title reads most like the history, against semantic hallucination."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rosepo_ray import seeds
from rosepo_ray.catalogue.encoders import TitleEncoder, build_encoder, nearest
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.errors import RosepoError
from rosepo_ray.rejection.base import Answers, RejectionRow, Strategy, StrategySettings, untakeable

_CACHE_BYTES = 256 * 2**20


@STRATEGIES.kind
class Semantic(StrategySettings):
    """The item never taken whose title reads most like the history (against semantic hallucination)."""

    type: Literal["semantic"] = "semantic"
    top: int = Field(1, ge=1)
    """Draw uniformly from this many nearest items; 1 takes the nearest."""
    encoder: str = "tfidf"
    """Text encoder of titles: `tfidf` (lexical) or a sentence-transformers model by name or path."""

    def build(self, catalogue: Catalogue) -> Strategy:
        return SemanticStrategy(self, catalogue, build_encoder(self.encoder, catalogue.titles))


class SemanticStrategy(Strategy):
    """Nearness of an item = the largest cosine similarity of its title to a title of the history.

    Each slot draws uniformly from the `top` nearest items that are left; with top 1 that is the nearest, then the
    second nearest, and so on. Equal nearness is ordered by `seeds.tie_break`. A title that shares nothing with the
    history has nearness 0.
    """

    name: ClassVar[str] = "semantic"

    def __init__(self, settings: Semantic, catalogue: Catalogue, encoder: TitleEncoder) -> None:
        super().__init__(catalogue)
        self.settings = settings
        self.vectors = encoder.encode(catalogue.titles)
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._kept = max(16, _CACHE_BYTES // (4 * max(1, len(catalogue.item_ids))))

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        index = self.catalogue.index
        missing = [item for item in row.history if item not in index]
        if missing or not row.history:
            raise RosepoError(
                f"row {row.example_id}: its history {list(row.history)} is empty or has items that are not in the "
                "catalogue, so nothing can be near to it"
            )
        nearness = np.max([self._similarities(index[item]) for item in set(row.history)], axis=0)
        nearness[[index[item] for item in untakeable(row, taken, self.catalogue) if item in index]] = -np.inf
        window = self._top(nearness, row.example_id)
        if len(window) < 2:
            item = window[0] if window else None
        else:
            item = window[int(seeds.generator(seed, row.example_id, slot, self.name).integers(len(window)))]
        return None if item is None else (item, self.catalogue.title_of(item))

    def _similarities(self, position: int) -> np.ndarray:
        """Cosine similarity of one item to all [N]; kept, since popular items stand in many histories."""
        found = self._rows.get(position)
        if found is None:
            found = nearest(self.vectors[[position]], self.vectors).astype(np.float32)
            self._rows[position] = found
            if len(self._rows) > self._kept:
                self._rows.popitem(last=False)
        return found

    def _top(self, nearness: np.ndarray, example_id: str) -> list[str]:
        """Ids of the `top` nearest allowed items, sorted by id."""
        wanted = min(self.settings.top, int(np.isfinite(nearness).sum()))
        if wanted == 0:
            return []
        edge = np.partition(nearness, -wanted)[-wanted]
        chosen = [self.catalogue.item_ids[i] for i in np.flatnonzero(nearness > edge)]
        # Hash only those on the edge: hashing the whole catalogue for each row would cost more than all the rest.
        tied = [self.catalogue.item_ids[i] for i in np.flatnonzero(nearness == edge)]
        if len(chosen) + len(tied) > wanted:
            tied = [tied[i] for i in np.argsort(seeds.tie_break(example_id, tied))]
        return sorted(chosen + tied[: wanted - len(chosen)])
