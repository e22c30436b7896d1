"""What every rejection strategy must keep; a new strategy inherits these tests by a subclass of five lines."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rosepo_ray.config.rejection import Mix, Popularity, SelfHard, Semantic, StrategySettings, Uniform
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.rejection import Catalogue, Pick, RejectionRow, Strategy, build

WORDS = ["red", "blue", "green", "iron", "glass", "river", "night", "summer"]
NOUNS = ["house", "garden", "window", "river", "street"]
TITLES = [f"The {a} {b}" for a in WORDS for b in NOUNS]
ITEMS = [f"i{n:02d}" for n in range(len(TITLES))]
POPULARITY = [(7 * n) % 13 for n in range(len(TITLES))]  # some are 0
CATALOGUE = Catalogue(ITEMS, TITLES, POPULARITY)


def make_rows(count: int) -> list[RejectionRow]:
    rows = []
    for n in range(count):
        shuffled = random.Random(n).sample(ITEMS, len(ITEMS))
        history, target, taken, others = shuffled[:4], shuffled[4], shuffled[5:8], shuffled[8:17]
        candidates = random.Random(n + 1000).sample([target, *others], 10)
        rows.append(
            RejectionRow(f"u{n}:5", f"u{n}", history, target, candidates, frozenset({*history, target, *taken}))
        )
    return rows


def logps_of(row: RejectionRow) -> np.ndarray:
    """Scores by item, not by place, so that a shuffled candidate list keeps them."""
    return np.array([-5.0 - 3 * random.Random(row.example_id + item).random() for item in row.candidates])


def picks_of(strategy: Strategy, row: RejectionRow, k: int, seed: int) -> list[Pick]:
    return strategy.complete(row, strategy.propose(row, k, seed), logps_of(row), seed)


class StrategyContract:
    settings: StrategySettings
    pool: str  # candidates | catalogue | both
    waits: bool  # for the policy's scores
    random: bool = True

    @pytest.fixture
    def strategy(self) -> Strategy:
        return build(self.settings, CATALOGUE, "tfidf")

    @pytest.mark.parametrize("k", [1, 4])
    def test_picks_are_distinct_and_never_taken(self, strategy: Strategy, k: int) -> None:
        for row in make_rows(60):
            picked = [pick.item_id for pick in picks_of(strategy, row, k, seed=1)]
            assert len(picked) == len(set(picked)) == k
            assert not set(picked) & ({row.target} | row.excluded)
            assert set(picked) <= set(ITEMS)

    def test_picks_come_from_the_right_pool(self, strategy: Strategy) -> None:
        rows = make_rows(60)
        inside = [p.item_id in row.candidates for row in rows for p in picks_of(strategy, row, 3, seed=1)]
        assert all(inside) if self.pool == "candidates" else not all(inside)

    def test_only_strategies_that_need_scores_wait(self, strategy: Strategy) -> None:
        assert strategy.needs_scores == self.waits
        open_slots = [pick is None for row in make_rows(30) for pick in strategy.propose(row, 3, seed=1)]
        assert any(open_slots) == self.waits

    def test_a_proposed_pick_survives_completion(self, strategy: Strategy) -> None:
        for row in make_rows(30):
            proposed = strategy.propose(row, 4, seed=1)
            done = strategy.complete(row, proposed, logps_of(row), seed=1)
            assert all(before in (None, after) for before, after in zip(proposed, done, strict=True))

    def test_a_row_depends_on_no_other_row(self, strategy: Strategy) -> None:
        """One strategy over all rows forwards, a fresh one backwards: the same picks."""
        rows = make_rows(40)
        forwards = {row.example_id: picks_of(strategy, row, 2, seed=3) for row in rows}
        fresh = build(self.settings, CATALOGUE, "tfidf")
        assert forwards == {row.example_id: picks_of(fresh, row, 2, seed=3) for row in reversed(rows)}

    def test_order_of_lists_decides_nothing(self, strategy: Strategy) -> None:
        order = random.Random(5).sample(range(len(ITEMS)), len(ITEMS))
        columns = ([column[i] for i in order] for column in (ITEMS, TITLES, POPULARITY))
        shuffled = build(self.settings, Catalogue(*columns), "tfidf")
        for row in make_rows(40):
            turned = RejectionRow(
                row.example_id, row.user_id, row.history, row.target, list(reversed(row.candidates)), row.excluded
            )
            assert picks_of(strategy, row, 3, seed=2) == picks_of(shuffled, turned, 3, seed=2)

    def test_another_seed_changes_random_strategies_alone(self, strategy: Strategy) -> None:
        rows = make_rows(60)
        first, second = ([picks_of(strategy, row, 2, seed) for row in rows] for seed in (1, 2))
        assert (first != second) == self.random

    def test_names_say_who_picked(self, strategy: Strategy) -> None:
        names = {pick.strategy for row in make_rows(60) for pick in picks_of(strategy, row, 2, seed=1)}
        assert names == self.names()

    def names(self) -> set[str]:
        return {self.settings.type}

    def test_too_few_items_name_the_row(self, strategy: Strategy) -> None:
        row = make_rows(1)[0]
        everything = frozenset(ITEMS) - {row.candidates[0], row.candidates[1]}
        tight = RejectionRow("u9:7", "u9", row.history, row.target, row.candidates, everything)
        with pytest.raises(BadInput, match=r"u9:7.*3 distinct.*rejection\.k"):
            picks_of(strategy, tight, 3, seed=1)

    def test_a_twin_title_of_the_target_is_never_rejected(self) -> None:
        """The log lists one film under two ids: to a language model both are the same answer."""
        twins = Catalogue(["a", "b", "c"], ["Heat (1995)", "heat  (1995)", "Cold (1995)"], [5, 5, 5])
        strategy = build(self.settings, twins, "tfidf")
        for n in range(20):
            row = RejectionRow(f"u{n}:1", f"u{n}", ["a"], "a", ["a", "b", "c"], frozenset({"a"}))
            assert [p.item_id for p in strategy.complete(row, strategy.propose(row, 1, 1), np.zeros(3), 1)] == ["c"]


class TestSelfHardArgmax(StrategyContract):
    settings, pool, waits, random = SelfHard(), "candidates", True, False


class TestSelfHardSample(StrategyContract):
    settings, pool, waits = SelfHard(pick="sample", temperature=2.0), "candidates", True


class TestSemanticNearest(StrategyContract):
    settings, pool, waits, random = Semantic(type="semantic"), "catalogue", False, False


class TestSemanticTop(StrategyContract):
    settings, pool, waits = Semantic(type="semantic", top=5), "catalogue", False


class TestPopularity(StrategyContract):
    settings, pool, waits = Popularity(type="popularity"), "catalogue", False


class TestUniform(StrategyContract):
    settings, pool, waits = Uniform(type="uniform"), "candidates", False


class TestMixOfAll(StrategyContract):
    settings, pool, waits = Mix(type="mix", self_hard=1, semantic=1, popularity=1, uniform=1), "both", True

    def names(self) -> set[str]:
        return {"self_hard", "semantic", "popularity", "uniform"}


def test_wrong_scores_are_refused() -> None:
    strategy, row = build(SelfHard(), CATALOGUE, "tfidf"), make_rows(1)[0]
    with pytest.raises(RosepoError, match="10 candidates"):
        strategy.complete(row, [None], np.zeros(9), 1)
    with pytest.raises(RosepoError, match="not finite"):
        strategy.complete(row, [None], np.full(10, np.nan), 1)
