"""The public contract (`rosepo_ray.testing.strategy`) of all shipped strategies, and what these promise beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES, type_of
from rosepo_ray.errors import RosepoError
from rosepo_ray.rejection import Answers, RejectionRow
from rosepo_ray.rejection.generated import Generated
from rosepo_ray.rejection.mix import Mix
from rosepo_ray.rejection.popularity import Popularity
from rosepo_ray.rejection.self_hard import SelfHard
from rosepo_ray.rejection.semantic import Semantic
from rosepo_ray.rejection.uniform import Uniform
from rosepo_ray.testing.strategy import CATALOGUE, StrategyContract, answers_to, picks_of, rows


class Shipped(StrategyContract):
    asks: ClassVar[set[str]]
    random: ClassVar[bool] = True
    names: ClassVar[set[str]] = set()

    def test_it_asks_for_what_it_says(self) -> None:
        strategy = self.strategy()
        asks = [strategy.ask(row, 3, 1) for row in rows(30)]
        found = {"scores"} if any(ask.scores for ask in asks) else set()
        assert found | ({"texts"} if any(ask.texts for ask in asks) else set()) == self.asks

    def test_only_slots_that_need_no_answer_are_drawn_while_asking(self) -> None:
        strategy = self.strategy()
        waiting = [pick is None for row in rows(30) for pick in strategy.ask(row, 3, 1).drawn]
        assert any(waiting) == bool(self.asks)
        assert all(waiting) == (bool(self.asks) and not self.names)

    def test_another_seed_changes_random_strategies_alone(self) -> None:
        strategy = self.strategy()
        first, second = ([picks_of(strategy, row, 2, seed) for row in rows(60)] for seed in (1, 2))
        assert (first != second) == self.random

    def test_names_say_who_picked(self) -> None:
        strategy = self.strategy()
        names = {pick.strategy for row in rows(60) for pick in picks_of(strategy, row, 2, seed=1)}
        assert names == (self.names or {type_of(type(self.settings))})

    def test_all_that_is_left_is_picked(self) -> None:
        """Two items and no more: three slots get both."""
        strategy = self.strategy()
        for row in rows(20):
            single = [item for item in row.candidates if not CATALOGUE.same_title([item])]
            left = [item for item in single if item not in row.excluded][:2]
            tight = replace(row, excluded=frozenset(CATALOGUE.item_ids) - set(left))
            ask = strategy.ask(tight, 3, 1)
            if "texts" not in self.asks:
                assert {pick.item_id for pick in strategy.pick(tight, ask, answers_to(ask, tight), 1)} == set(left)

    def test_a_twin_title_of_the_target_is_never_rejected(self) -> None:
        """The log lists one film under two ids: to a language model both are the same answer."""
        twins = Catalogue(("a", "b", "c"), ("Heat (1995)", "heat  (1995)", "Cold (1995)"), (5, 5, 5))
        strategy = self.strategy(twins)
        for n in range(20):
            row = RejectionRow(f"u{n}:1", f"u{n}", ["a"], "a", ["a", "b", "c"], frozenset({"a"}))
            answers = Answers(dict.fromkeys("abc", 0.0), ["HEAT (1995)", "cold (1995)"])
            assert [pick.item_id for pick in strategy.pick(row, strategy.ask(row, 1, 1), answers, 1)] == ["c"]

    def test_two_picks_of_a_row_never_share_a_title(self) -> None:
        twins = Catalogue(("a", "b", "c"), ("Heat (1995)", "Cold (1995)", "cold  (1995)"), (5, 5, 5))
        row = RejectionRow("u1:1", "u1", ["a"], "a", ["a", "b", "c"], frozenset({"a"}))
        strategy = self.strategy(twins)
        answers = Answers(dict.fromkeys("abc", 0.0), ["Cold (1995)", "cold (1995)", "COLD (1995)"])
        assert len(strategy.pick(row, strategy.ask(row, 2, 1), answers, 1)) == 1


class TestSelfHard(Shipped):
    settings, asks, random = SelfHard(), {"scores"}, False


class TestSelfHardSampled(Shipped):
    settings, asks = SelfHard(temperature=2.0), {"scores"}


class TestSemanticNearest(Shipped):
    settings, asks, random = Semantic(), set(), False


class TestSemanticTop(Shipped):
    settings, asks = Semantic(top=5), set()


class TestPopularity(Shipped):
    settings, asks = Popularity(), set()


class TestUniform(Shipped):
    settings, asks = Uniform(), set()


class TestGenerated(Shipped):
    settings, asks, random = Generated(), {"texts"}, False  # the seed is in the texts that the policy is asked for


class TestMixOfCandidates(Shipped):
    settings, asks = Mix(parts={"self_hard": 2, "uniform": 1}), {"scores"}
    names: ClassVar[set[str]] = {"self_hard", "uniform"}


class TestMixOfAll(Shipped):
    names: ClassVar[set[str]] = {type_of(kind) for kind in STRATEGIES} - {"mix"}
    settings, asks = Mix(parts=dict.fromkeys(sorted(names), 1)), {"scores", "texts"}


def test_every_kind_is_under_the_contract() -> None:
    tested = {type(kind.settings) for kind in Shipped.__subclasses__()}
    assert tested == set(STRATEGIES)


@pytest.mark.parametrize(
    ("parts", "pool"),
    [
        ({"self_hard": 1, "uniform": 1}, "candidates"),
        ({"self_hard": 1, "popularity": 1, "generated": 0}, "catalogue"),
        ({"self_hard": 1, "generated": 1}, "texts"),
    ],
)
def test_a_mix_picks_from_the_widest_pool_of_its_parts(parts: dict[str, float], pool: str) -> None:
    assert Mix(parts=parts).pool == pool


@pytest.mark.parametrize("logps", [{}, dict.fromkeys(CATALOGUE.item_ids, float("nan"))])
def test_scores_that_are_missing_or_no_number_are_refused(logps: dict[str, float]) -> None:
    strategy, row = SelfHard().build(CATALOGUE), rows(1)[0]
    with pytest.raises(RosepoError, match=r"u0:5.*no finite log-probability"):
        strategy.pick(row, strategy.ask(row, 1, 1), Answers(logps), 1)
