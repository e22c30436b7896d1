"""A rejection strategy of your own: two classes in a file of yours, chosen by import path.

    PYTHONPATH=examples rosepo align --rejection.strategy.type own_strategy:SameWord --rejection.strategy.letters 4

or in a recipe: `rejection: {strategy: {type: "own_strategy:SameWord"}}`; in Python as below.
"""

from collections.abc import Set

from pydantic import Field

import rosepo_ray as rosepo
from rosepo_ray import seeds
from rosepo_ray.rejection import Answers, RejectionRow
from rosepo_ray.rejection.base import untakeable


class SameWord(rosepo.strategies.StrategySettings):
    """The settings: an item never taken whose title begins as that of the chosen one does."""

    type: str
    letters: int = Field(3, ge=1)
    """How many letters must agree."""

    def build(self, catalogue: rosepo.Catalogue) -> rosepo.strategies.Strategy:
        return SameWordStrategy(self, catalogue)


class SameWordStrategy(rosepo.strategies.Strategy):
    name = "same_word"  # stands in the table of pairs

    def __init__(self, settings: SameWord, catalogue: rosepo.Catalogue) -> None:
        super().__init__(catalogue)
        self.letters = settings.letters

    def draw(
        self, row: RejectionRow, slot: int, taken: Set[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        begin = self.catalogue.title_of(row.target)[: self.letters]
        free = set(self.catalogue.item_ids) - untakeable(row, taken, self.catalogue)
        pool = sorted(item for item in free if self.catalogue.title_of(item).startswith(begin))
        if not pool:
            return None  # the row then has one rejected item less
        # Randomness comes from (seed, row, slot), so that neither workers nor batches change a draw.
        item = pool[int(seeds.generator(seed, row.example_id, slot, self.name).integers(len(pool)))]
        return item, self.catalogue.title_of(item)


def main() -> None:
    catalogue = rosepo.Catalogue.from_titles({"1": "Star Wars", "2": "Star Trek", "3": "Stardust", "4": "Heat"})
    strategy = SameWord(type="own_strategy:SameWord").build(catalogue)
    row = RejectionRow("u1:7", "u1", ["4"], "1", ["1", "3"], frozenset())
    ask = strategy.ask(row, 2, seed=1)
    print([pick.text for pick in strategy.pick(row, ask, Answers(), seed=1)])


if __name__ == "__main__":
    main()
