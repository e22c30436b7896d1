"""What every rejection strategy must keep, as tests that a strategy of your own inherits:

    from rosepo_ray.testing.strategy import StrategyContract

    class TestMine(StrategyContract):
        settings = Mine(type="my_package.strategies:Mine")

Run it with pytest. No policy is needed: scores and texts come from the row's id.
"""

from __future__ import annotations

import random
from dataclasses import replace

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.config.rejection import RejectionSettings
from rosepo_ray.rejection import Answers, Ask, Pick, RejectionRow, Strategy, StrategySettings

_WORDS = ("red", "blue", "green", "iron", "glass", "river", "night", "summer")
_NOUNS = ("house", "garden", "window", "river", "street")
_TITLES = [f"The {word} {noun}" for word in _WORDS for noun in _NOUNS]
_TWINS = [title.upper() for title in _TITLES[::4]]
_COUNT = len(_TITLES) + len(_TWINS)

CATALOGUE = Catalogue(
    tuple(f"i{n:02d}" for n in range(_COUNT)), tuple(_TITLES + _TWINS), tuple(1 + (7 * n) % 13 for n in range(_COUNT))
)
"""40 titles, every fourth of them under a second id too."""


def rows(count: int) -> list[RejectionRow]:
    """Rows of 4 items of history, 3 more that the user took, and 12 candidates."""
    made = []
    for n in range(count):
        shuffled = random.Random(n).sample(CATALOGUE.item_ids, _COUNT)
        history, target, taken = shuffled[:4], shuffled[4], shuffled[5:8]
        candidates = random.Random(n + 1000).sample([target, *shuffled[8:19]], 12)
        excluded = frozenset({*history, target, *taken})
        made.append(RejectionRow(f"u{n}:5", f"u{n}", history, target, candidates, excluded))
    return made


def answers_to(ask: Ask, row: RejectionRow, variant: int = 0) -> Answers:
    """What a policy might say, and nothing that was not asked: candidates scored by their ids; texts that are all
    wrong, some of them an item in another spelling."""
    scores = {item: -5 - 3 * random.Random(f"{row.example_id} {item} {variant}").random() for item in row.candidates}
    own = {title_key(CATALOGUE.title_of(item)) for item in row.excluded}
    texts = [title.lower() for title in _TITLES if title_key(title) not in own]
    texts += [f"No such title {n}" for n in range(len(texts))]
    random.Random(f"{row.example_id} {variant}").shuffle(texts)
    return Answers(scores if ask.scores else {}, texts[: ask.texts])


def picks_of(strategy: Strategy, row: RejectionRow, k: int, seed: int, variant: int = 0) -> list[Pick]:
    """The picks of a row for a policy that answers as :func:`answers_to` does."""
    ask = strategy.ask(row, k, seed)
    return strategy.pick(row, ask, answers_to(ask, row, variant), seed)


class StrategyContract:
    """A subclass sets `settings`."""

    settings: StrategySettings

    def strategy(self, catalogue: Catalogue = CATALOGUE) -> Strategy:
        return self.settings.build(catalogue)

    def test_picks_are_distinct_and_wrong(self) -> None:
        """Also where the first texts that the policy writes are right: the target, an item that the user took."""
        strategy = self.strategy()
        for row in rows(60):
            ask = strategy.ask(row, 4, 1)
            answers = answers_to(ask, row)
            right = [CATALOGUE.title_of(row.target), CATALOGUE.title_of(row.history[0]).upper()]
            told = Answers(answers.logps, [*right, *answers.texts][: ask.texts])
            picks = strategy.pick(row, ask, told, 1)
            keys = [title_key(pick.text) for pick in picks]
            assert len(set(keys)) == len(keys), f"one title twice among {picks}"
            assert title_key(CATALOGUE.title_of(row.target)) not in keys, f"the target's title among {picks}"
            taken = {pick.item_id for pick in picks} & (row.excluded | {row.target})
            assert not taken, f"items that the user took: {taken}"

    def test_a_pick_is_an_item_as_the_catalogue_spells_it_or_a_text_that_names_none(self) -> None:
        strategy = self.strategy()
        for pick in (pick for row in rows(60) for pick in picks_of(strategy, row, 4, seed=1)):
            if pick.item_id is None:
                assert pick.text.strip(), f"an empty text: {pick}"
                assert CATALOGUE.named(pick.text) is None, f"{pick} is an item, so it needs its id"
            else:
                assert pick.text == CATALOGUE.title_of(pick.item_id), f"not the title of its item: {pick}"

    def test_picks_come_from_the_pool_that_the_settings_name(self) -> None:
        strategy = self.strategy()
        for row in rows(60):
            items = {pick.item_id for pick in picks_of(strategy, row, 3, seed=1)}
            if self.settings.pool == "candidates":
                assert items <= set(row.candidates), f"{row.example_id}: {items} are not all candidates"
            if self.settings.pool == "catalogue":
                assert None not in items, f"{row.example_id}: a text that is no item, so the pool is 'texts'"

    def test_fewer_than_k_only_where_the_pool_is_smaller(self) -> None:
        strategy = self.strategy()
        for row in rows(60):
            for k in (1, 4):
                assert len(picks_of(strategy, row, k, seed=1)) == k, f"{row.example_id} with k {k}"

    def test_a_row_with_nothing_left_is_passed_over(self) -> None:
        """No pick is no error: the run goes on without the row."""
        strategy = self.strategy()
        for row in rows(20):
            tight = replace(row, excluded=frozenset(CATALOGUE.item_ids))
            ask = strategy.ask(tight, 3, 1)
            right = Answers(answers_to(ask, row).logps, [CATALOGUE.title_of(row.target)] * ask.texts)
            assert strategy.pick(tight, ask, right, 1) == []

    def test_picks_depend_on_the_row_the_number_and_the_seed_alone(self) -> None:
        """One strategy over all rows forwards, a fresh one backwards: the same picks."""
        strategy, fresh = self.strategy(), self.strategy()
        forwards = {row.example_id: picks_of(strategy, row, 3, seed=3) for row in rows(40)}
        backwards = {row.example_id: picks_of(fresh, row, 3, seed=3) for row in reversed(rows(40))}
        assert forwards == backwards

    def test_the_order_of_candidates_and_catalogue_decides_nothing(self) -> None:
        columns = zip(CATALOGUE.item_ids, CATALOGUE.titles, CATALOGUE.popularity, strict=True)
        ids, titles, popularity = zip(*random.Random(5).sample(list(columns), _COUNT), strict=True)
        strategy, shuffled = self.strategy(), self.strategy(Catalogue(ids, titles, popularity))
        for row in rows(40):
            turned = replace(row, candidates=list(reversed(row.candidates)))
            assert picks_of(strategy, row, 3, seed=2) == picks_of(shuffled, turned, 3, seed=2), row.example_id

    def test_it_asks_only_for_what_it_uses(self) -> None:
        """Another answer must change a pick of some row; an answer costs a pass of the policy."""
        strategy = self.strategy()
        asks = [strategy.ask(row, 3, 1) for row in rows(60)]
        if any(ask.scores or ask.texts for ask in asks):
            first, second = ([picks_of(strategy, row, 3, 1, variant) for row in rows(60)] for variant in (0, 1))
            assert first != second, "it asks the policy, but whatever the policy answers, the picks are the same"
        for row, ask in zip(rows(60), asks, strict=True):
            if not (ask.scores or ask.texts):
                told = Answers(dict.fromkeys(row.candidates, -1.0), ["No such title"])
                assert strategy.pick(row, ask, told, 1) == strategy.pick(row, ask, Answers(), 1), row.example_id

    def test_a_pick_made_while_asking_stays(self) -> None:
        """Its log-probability is computed in the pass that answers, whatever the answers are."""
        strategy = self.strategy()
        for row in rows(30):
            drawn = [pick for pick in strategy.ask(row, 4, 1).drawn if pick is not None]
            picks = picks_of(strategy, row, 4, seed=1)
            assert all(pick in picks for pick in drawn), row.example_id

    def test_settings_are_read_back_as_they_were_written(self) -> None:
        written = RejectionSettings(strategy=self.settings).model_dump_json()
        assert RejectionSettings.model_validate_json(written).strategy == self.settings
