"""What a rejection strategy is: for each slot of a row it picks an item that the user did not take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.errors import BadInput, RosepoError


@dataclass(frozen=True)
class RejectionRow:
    """One example that wants rejected items; all fields are item ids but the first two.

    Attributes:
        example_id: `user:position`; with the seed it fixes every random choice of the row.
        user_id: the user.
        history: items before the position, oldest first.
        target: the item really taken next (chosen).
        candidates: the candidate set, the target among it.
        excluded: items the user took, which may never be rejected.
    """

    example_id: str
    user_id: str
    history: Sequence[str]
    target: str
    candidates: Sequence[str]
    excluded: frozenset[str]


@dataclass(frozen=True)
class Pick:
    """A rejected item and the name of the strategy that picked it (under `mix`, the one that was drawn)."""

    item_id: str
    strategy: str


class NothingToReject(BadInput):
    """A row has too few items that could be rejected; another row may have enough."""


class Strategy(ABC):
    """Picks K rejected items per row in two phases, so that one scoring pass of the policy serves everything.

    `propose` fills the slots that need no scores and leaves None in the others; after the policy has scored the
    candidates, `complete` fills these. The picks of a row are distinct, never the target nor an item with its
    title, never in `row.excluded`, and depend on (row, k, seed) alone.
    """

    name: str
    needs_scores: bool = False

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @abstractmethod
    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], candidate_logps: np.ndarray | None, seed: int
    ) -> str | None:
        """The item of one slot, none of `taken`; None when the pool is empty.

        `candidate_logps` [len(row.candidates)] (sums, nats) is given to strategies with `needs_scores` only.
        """

    def source(self, row: RejectionRow, slot: int, seed: int) -> Strategy:
        """The strategy that serves this slot: itself, unless it mixes others."""
        return self

    def propose(self, row: RejectionRow, k: int, seed: int) -> list[Pick | None]:
        """K picks; None where a slot waits for the policy's scores.

        Raises:
            NothingToReject: the row has no K distinct items to reject.
        """
        picks: list[Pick | None] = [None] * k
        for slot in range(k):
            source = self.source(row, slot, seed)
            if not source.needs_scores:
                picks[slot] = _pick(source, row, slot, picks, None, seed)
        return picks

    def complete(
        self, row: RejectionRow, picks: Sequence[Pick | None], candidate_logps: np.ndarray, seed: int
    ) -> list[Pick]:
        """The picks with the open slots filled, from log-probabilities in the order of `row.candidates`.

        Raises:
            NothingToReject: the row has no K distinct items to reject.
            RosepoError: the scores do not fit the candidates or are not finite.
        """
        filled: list[Pick | None] = list(picks)
        logps = np.asarray(candidate_logps, dtype=np.float64)
        if None in filled and (logps.shape != (len(row.candidates),) or not np.isfinite(logps).all()):
            raise RosepoError(
                f"row {row.example_id}: log-probabilities of shape {logps.shape} for {len(row.candidates)} candidates "
                "(or not finite ones) cannot be used to pick a rejected item"
            )
        for slot, pick in enumerate(filled):
            if pick is None:
                filled[slot] = _pick(self.source(row, slot, seed), row, slot, filled, logps, seed)
        return [pick for pick in filled if pick is not None]


def _pick(
    source: Strategy,
    row: RejectionRow,
    slot: int,
    picks: Sequence[Pick | None],
    candidate_logps: np.ndarray | None,
    seed: int,
) -> Pick:
    taken = {pick.item_id for pick in picks if pick is not None}
    item = source.draw(row, slot, taken, candidate_logps, seed)
    if item is None:
        raise NothingToReject(
            f"row {row.example_id}: {len(picks)} distinct rejected items were asked for, but strategy {source.name} "
            f"finds none for slot {slot + 1} beside the target, what the user took and the other slots; "
            "lower rejection.k, raise data.candidates or choose another rejection.strategy"
        )
    return Pick(item, source.name)


def wrong_candidates(row: RejectionRow, taken: AbstractSet[str], catalogue: Catalogue) -> list[str]:
    """The candidates that may be rejected, sorted by id, so that the order of the list decides nothing."""
    target = catalogue.same_title([row.target]) | {row.target}
    return sorted(item for item in set(row.candidates) - target - taken if item not in row.excluded)


def untakeable(row: RejectionRow, taken: AbstractSet[str], catalogue: Catalogue) -> set[str]:
    """What a pick from the whole catalogue must avoid: everything the user took, also under another id."""
    own = {row.target, *row.history} | row.excluded
    return own | catalogue.same_title(own) | taken
