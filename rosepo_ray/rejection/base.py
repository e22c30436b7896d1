"""What a rejection strategy is: for each slot of a row it picks an item, or a text, that the user did not take.

    ask(row, k, seed)           what it wants to know of the policy: scores of the candidates, texts that it writes
    pick(row, ask, answers)     up to K distinct picks, from what it was told

Whoever runs the strategies gathers what all rows ask and lets the policy answer in one pass. A slot that needs no
answer is drawn while asking, so that its item is scored in the same pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.config.kinds import Kind
from rosepo_ray.errors import RosepoError

Want = Literal["nothing", "scores", "texts"]
Pool = Literal["candidates", "catalogue", "texts"]


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
    """A rejected item with its title, or a text that is no item (`item_id` None), and the name of the strategy that
    picked it (under `mix`, the one that was drawn)."""

    item_id: str | None
    text: str
    strategy: str


@dataclass(frozen=True)
class Ask:
    """What a row wants to know. `drawn` holds the picks that need no answer, None in the slots that wait."""

    drawn: tuple[Pick | None, ...]
    scores: bool = False
    """log pi of the candidates."""
    texts: int = 0
    """So many texts that the policy writes, sampled at `temperature`."""
    temperature: float = 1.0


@dataclass(frozen=True)
class Answers:
    """What the policy said of a row."""

    logps: Mapping[str, float] = field(default_factory=dict)
    """Candidate -> log pi, the sum over its title and end token, nats."""
    texts: Sequence[str] = ()


class Strategy(ABC):
    """The picks of a row are distinct, also by title, never the target nor an item with its title, never in
    `row.excluded`, and depend on (row, k, seed) and the policy alone. A kind implements :meth:`draw`, and says in
    `wants` what it draws from."""

    name: ClassVar[str]
    wants: ClassVar[Want] = "nothing"
    texts_per_slot: int = 0
    temperature: float = 1.0

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @abstractmethod
    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str | None, str] | None:
        """Item id and title (or None and a text) of one slot; None where there is nothing to pick.

        `taken` holds the items of the other slots that are filled, under every id that bears their titles, and the keys
        (`title_key`) of those texts that are no item.
        """

    def source(self, row: RejectionRow, slot: int, seed: int) -> Strategy:
        """The strategy that serves this slot: itself, unless it mixes others."""
        return self

    def ask(self, row: RejectionRow, k: int, seed: int) -> Ask:
        """What the K slots of a row want to know."""
        drawn: list[Pick | None] = [None] * k
        sources = [self.source(row, slot, seed) for slot in range(k)]
        for slot, source in enumerate(sources):
            if source.wants == "nothing":
                drawn[slot] = _pick(source, row, slot, drawn, Answers(), seed)
        writers = [source for source in sources if source.wants == "texts"]
        return Ask(
            tuple(drawn),
            scores=any(source.wants == "scores" for source in sources),
            texts=sum(source.texts_per_slot for source in writers),
            temperature=writers[0].temperature if writers else 1.0,
        )

    def pick(self, row: RejectionRow, ask: Ask, answers: Answers, seed: int) -> list[Pick]:
        """The picks in the order of their slots: fewer than were asked for where the row has no more, perhaps none."""
        filled: list[Pick | None] = list(ask.drawn)
        for slot, pick in enumerate(filled):
            source = self.source(row, slot, seed)
            if pick is None and source.wants != "nothing":
                filled[slot] = _pick(source, row, slot, filled, answers, seed)
        return [pick for pick in filled if pick is not None]


class StrategySettings(Kind):
    """Settings of a strategy."""

    @property
    def pool(self) -> Pool:
        """What it picks from."""
        return "catalogue"

    def build(self, catalogue: Catalogue) -> Strategy:
        """Raises BadInput where it cannot work with this catalogue."""
        raise NotImplementedError


def _pick(
    source: Strategy, row: RejectionRow, slot: int, picks: Sequence[Pick | None], answers: Answers, seed: int
) -> Pick | None:
    taken = _taken([pick for pick in picks if pick is not None], source.catalogue)
    found = source.draw(row, slot, taken, answers, seed)
    return None if found is None else Pick(*found, source.name)


def _taken(picks: Sequence[Pick], catalogue: Catalogue) -> set[str]:
    texts = {title_key(pick.text) for pick in picks if pick.item_id is None}
    items = {pick.item_id for pick in picks if pick.item_id is not None}
    return texts | items.union(*(catalogue.bearers(pick.text) for pick in picks))


def wrong_candidates(row: RejectionRow, taken: AbstractSet[str], catalogue: Catalogue) -> list[str]:
    """The candidates that may be rejected, sorted by id, so that the order of the list decides nothing."""
    target = catalogue.same_title([row.target]) | {row.target}
    return sorted(item for item in set(row.candidates) - target - taken if item not in row.excluded)


def untakeable(row: RejectionRow, taken: AbstractSet[str], catalogue: Catalogue) -> set[str]:
    """What a pick from the whole catalogue must avoid: everything the user took, also under another id."""
    own = {row.target, *row.history} | row.excluded
    return own | catalogue.same_title(own) | taken


def scores_of(row: RejectionRow, pool: Sequence[str], answers: Answers) -> list[float]:
    """log pi of some candidates. Raises RosepoError where one has no score, or not a finite one."""
    logps = [answers.logps.get(item, float("nan")) for item in pool]
    if any(not abs(logp) < float("inf") for logp in logps):
        raise RosepoError(f"row {row.example_id}: the policy gave no finite log-probability for some of its candidates")
    return logps
