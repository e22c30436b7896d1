"""The contract of strategies: a strategy of one's own passes it, and each way to break it is found."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import ClassVar

import pytest

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.rejection import Answers, RejectionRow, Strategy, StrategySettings
from rosepo_ray.rejection.base import Pool, Want, wrong_candidates
from rosepo_ray.testing.strategy import StrategyContract

Draw = Callable[[Strategy, RejectionRow, AbstractSet[str]], "str | None"]


def rarest(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    """The least popular of the wrong candidates."""
    catalogue = strategy.catalogue
    pool = wrong_candidates(row, taken, catalogue)
    return min(pool, key=lambda item: (catalogue.popularity[catalogue.index[item]], item), default=None)


class Rarest(StrategySettings):
    pool: ClassVar[Pool] = "candidates"
    how: ClassVar[Draw] = staticmethod(rarest)
    asks: ClassVar[Want] = "nothing"
    type: str

    def build(self, catalogue: Catalogue) -> Strategy:
        return _Drawing(self, catalogue)


class _Drawing(Strategy):
    name: ClassVar[str] = "rarest"

    def __init__(self, settings: Rarest, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.how, self.wants = settings.how, settings.asks  # type: ignore[misc]

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        item = self.how(self, row, taken)
        return None if item is None else (item, self.catalogue.title_of(item))


class TestRarest(StrategyContract):
    settings = Rarest(type=f"{__name__}:Rarest")


def target(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str:
    return row.target


def again(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    return rarest(strategy, row, frozenset())


def taken_by_the_user(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    return min(set(row.excluded) - taken - {row.target}, default=None)


def out_of_the_pool(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    outside = set(strategy.catalogue.item_ids) - set(row.candidates) - row.excluded - taken
    return min(outside, default=None)


def first_listed(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    pool = set(wrong_candidates(row, taken, strategy.catalogue))
    return next((item for item in row.candidates if item in pool), None)


def one_alone(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    return None if taken else rarest(strategy, row, taken)


_CALLS = itertools.count()


def by_the_call(strategy: Strategy, row: RejectionRow, taken: AbstractSet[str]) -> str | None:
    pool = wrong_candidates(row, taken, strategy.catalogue)
    return pool[next(_CALLS) % len(pool)] if pool else None


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (target, "test_picks_are_distinct_and_wrong"),
        (again, "test_picks_are_distinct_and_wrong"),
        (taken_by_the_user, "test_picks_are_distinct_and_wrong"),
        (out_of_the_pool, "test_picks_come_from_the_pool_that_the_settings_name"),
        (one_alone, "test_fewer_than_k_only_where_the_pool_is_smaller"),
        (target, "test_a_row_with_nothing_left_is_passed_over"),
        (by_the_call, "test_picks_depend_on_the_row_the_number_and_the_seed_alone"),
        (first_listed, "test_the_order_of_candidates_and_catalogue_decides_nothing"),
    ],
)
def test_a_broken_strategy_fails(broken: Draw, test: str) -> None:
    class Broken(Rarest):
        how: ClassVar[Draw] = staticmethod(broken)

    class Contract(StrategyContract):
        settings = Broken(type="x:Broken")

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()


def test_asking_for_scores_that_decide_nothing_fails() -> None:
    class Curious(Rarest):
        asks: ClassVar[Want] = "scores"

    class Contract(StrategyContract):
        settings = Curious(type="x:Curious")

    with pytest.raises(AssertionError, match="whatever the policy answers"):
        Contract().test_it_asks_only_for_what_it_uses()


def test_settings_whose_type_does_not_name_them_fail() -> None:
    class Contract(StrategyContract):
        settings = Rarest(type="Rarest")

    with pytest.raises(ValueError, match="none of"):
        Contract().test_settings_are_read_back_as_they_were_written()
