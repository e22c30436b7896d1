"""Each strategy on examples made by hand, and the distributions that they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.rejection import Answers, Pick, RejectionRow, Strategy
from rosepo_ray.rejection.generated import Generated
from rosepo_ray.rejection.mix import Mix
from rosepo_ray.rejection.popularity import Popularity
from rosepo_ray.rejection.self_hard import SelfHard
from rosepo_ray.rejection.semantic import Semantic, SemanticStrategy
from rosepo_ray.rejection.uniform import Uniform

ABCDE = Catalogue(tuple("abcde"), tuple(f"Title number {c * 4}" for c in "abcde"), (10, 20, 30, 40, 0))


def row(number: int = 0, *, history: str = "a", target: str = "a", excluded: str = "a") -> RejectionRow:
    return RejectionRow(f"u{number}:3", f"u{number}", list(history), target, list("abcde"), frozenset(excluded))


def picks(
    strategy: Strategy,
    one: RejectionRow,
    k: int = 1,
    logps: Mapping[str, float] | None = None,
    texts: Sequence[str] = (),
) -> list[Pick]:
    return strategy.pick(one, strategy.ask(one, k, 1), Answers(logps or {}, texts), 1)


def items(strategy: Strategy, one: RejectionRow, k: int = 1) -> list[str | None]:
    return [pick.item_id for pick in picks(strategy, one, k)]


def counted(strategy: Strategy, rows: Iterable[RejectionRow], logps: Mapping[str, float] | None = None) -> Counter:
    return Counter(pick.item_id for one in rows for pick in picks(strategy, one, 1, logps))


def test_self_hard_takes_the_likeliest_wrong_candidate_then_the_next() -> None:
    # The target a is the likeliest of all and must not be taken; then c (-1.5), b (-2), e (-3), d (-9).
    logps = {"a": -1.0, "b": -2.0, "c": -1.5, "d": -9.0, "e": -3.0}
    titles = {item: ABCDE.title_of(item) for item in "bce"}
    assert picks(SelfHard().build(ABCDE), row(), 3, logps) == [Pick(i, titles[i], "self_hard") for i in "cbe"]


def test_self_hard_ties_are_spread_over_the_items() -> None:
    counts = counted(SelfHard().build(ABCDE), map(row, range(400)), dict.fromkeys("abcde", 0.0))
    assert set(counts) == set("bcde")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_self_hard_with_a_temperature_follows_the_softmax() -> None:
    # Temperature 2 over b..e with logps 0, -2 ln 2, -2 ln 4, -2 ln 8 gives weights 1, 1/2, 1/4, 1/8: 8:4:2:1 of 15.
    logps = {"a": 5.0, "b": 0.0, "c": -2 * np.log(2), "d": -2 * np.log(4), "e": -2 * np.log(8)}
    counts = counted(SelfHard(temperature=2.0).build(ABCDE), map(row, range(3000)), logps)
    assert chisquare([counts[item] for item in "bcde"], [1600, 800, 400, 200]).pvalue > 0.001


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # Without a: popularity 20, 30, 40, 0. alpha 1: 2/9, 3/9, 4/9, 0; alpha 2: 4/29, 9/29, 16/29, 0; alpha 0: quarters.
    [(1.0, [2 / 9, 3 / 9, 4 / 9, 0]), (2.0, [4 / 29, 9 / 29, 16 / 29, 0]), (0.0, [1 / 4] * 4)],
)
def test_popularity_follows_the_power_of_popularity(alpha: float, expected: list[float]) -> None:
    counts = counted(Popularity(alpha=alpha).build(ABCDE), map(row, range(3000)))
    kept = [(counts[item], 3000 * share) for item, share in zip("bcde", expected, strict=True) if share]
    assert sum(observed for observed, _ in kept) == 3000  # nothing where the share is 0
    assert chisquare([o for o, _ in kept], [e for _, e in kept]).pvalue > 0.001


def test_popularity_masks_when_redrawing_would_not_end() -> None:
    """All but 3 millionths of the popularity is taken: 64 draws do not hit what is left, the mask does, as 1 : 2."""
    catalogue = Catalogue(tuple("abc"), ("one", "two", "three"), (10**6, 1, 2))
    counts = counted(Popularity().build(catalogue), map(row, range(900)))
    assert set(counts) == {"b", "c"}
    assert chisquare([counts["b"], counts["c"]], [300, 600]).pvalue > 0.001


def test_popularity_does_not_overflow_with_a_large_alpha() -> None:
    assert items(Popularity(alpha=500).build(ABCDE), row()) == ["d"]


def test_popularity_without_interactions_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no item has a training interaction"):
        Popularity().build(Catalogue(("a", "b"), ("A", "B"), (0, 0)))


def test_popularity_cannot_pick_what_nobody_took() -> None:
    """Only e is left, which has no interaction: the row has nothing to reject, and that is no error."""
    strategy = Popularity().build(ABCDE)
    assert items(strategy, row(excluded="abcd")) == []
    assert items(strategy, row(excluded="abc"), 3) == ["d"]


def test_uniform_is_uniform_over_the_wrong_candidates() -> None:
    counts = counted(Uniform().build(ABCDE), map(row, range(2000)))
    assert set(counts) == set("bcde")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_mix_draws_strategies_by_weight() -> None:
    strategy = Mix(parts={"self_hard": 0, "popularity": 3, "uniform": 1}).build(ABCDE)
    assert not strategy.ask(row(), 4, 1).scores
    names = Counter(pick.strategy for n in range(2000) for pick in picks(strategy, row(n)))
    assert chisquare([names["popularity"], names["uniform"]], [1500, 500]).pvalue > 0.001


def test_mix_avoids_what_other_slots_took() -> None:
    """b is the likeliest wrong candidate; where another slot took it, self_hard takes the next, c."""
    strategy = Mix(parts={"self_hard": 1, "uniform": 1}).build(ABCDE)
    logps, seen = dict(zip("abcde", [0.0, -1, -2, -3, -4], strict=True)), set()
    for n in range(200):
        drawn = strategy.ask(row(n), 2, 1).drawn
        if (drawn[0] is None) != (drawn[1] is None):
            other = next(pick.item_id for pick in drawn if pick)
            hard = next(p.item_id for p in picks(strategy, row(n), 2, logps) if p.strategy == "self_hard")
            assert hard == ("c" if other == "b" else "b")
            seen.add(other)
    assert "b" in seen
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "a strategy with a weight above 0"),
        ({"uniform": 0}, "a strategy with a weight above 0"),
        ({"mix": 1, "uniform": 1}, "no other mix"),
        ({"uniform": -1}, r"parts\.uniform -1 is negative"),
        ({"hardest": 1}, "'hardest' is none of"),
    ],
)
def test_a_mix_of_nothing_or_of_what_is_no_strategy_is_refused(parts: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Mix(parts=parts)


FILMS = Catalogue(
    ("m1", "m2", "m3", "m4", "m5", "m6"),
    ("Star Wars", "Star Wars Returns", "Star Trek", "Casablanca", "STAR  WARS", "Casablanca Nights"),
    (1,) * 6,
)


def film_row(history: list[str], target: str, excluded: set[str]) -> RejectionRow:
    return RejectionRow("u1:2", "u1", history, target, ["m4", target], frozenset(excluded))


def test_semantic_takes_the_nearest_title_never_taken() -> None:
    # History "Star Wars". m5 bears the same title under another id: taken, whatever its id. So the sequel m2, then m3.
    assert items(Semantic().build(FILMS), film_row(["m1"], "m4", {"m1", "m4"}), 2) == ["m2", "m3"]


def test_semantic_avoids_excluded_items() -> None:
    assert items(Semantic().build(FILMS), film_row(["m1"], "m4", {"m1", "m4", "m2"})) == ["m3"]


class PlaneEncoder:
    """Titles are their own coordinates: cosines that can be worked out by hand."""

    name = description = "plane"

    def encode(self, titles: Sequence[str]) -> np.ndarray:
        return np.array([[float(part) for part in title.split()] for title in titles])


def test_semantic_is_the_maximum_over_the_history() -> None:
    # To the history (1, 0), (0, 1): c has cosines 0.96 and 0.28, d has 0.6 and 0.8. The largest cosine prefers c
    # (0.96 over 0.8); the mean would prefer d (0.7 over 0.62).
    plane = Catalogue(tuple("abcd"), ("1 0", "0 1", "0.96 0.28", "0.6 0.8"), (1,) * 4)
    strategy = SemanticStrategy(Semantic(), plane, PlaneEncoder())
    assert items(strategy, row(history="ab", target="a", excluded="ab"), 2) == ["c", "d"]


def test_semantic_top_draws_uniformly_from_the_nearest() -> None:
    rows = [RejectionRow(f"u{n}:2", "u", ["m1"], "m4", ["m4"], frozenset({"m1", "m4"})) for n in range(1000)]
    counts = counted(Semantic(top=2).build(FILMS), rows)
    assert set(counts) == {"m2", "m3"}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_semantic_ties_are_spread_by_row() -> None:
    """Nothing shares a letter with the history: every item is as near as the others."""
    catalogue = Catalogue(tuple("abcd"), ("zzzz", "bbbb", "cccc", "dddd"), (1,) * 4)
    counts = counted(Semantic().build(catalogue), map(row, range(600)))
    assert set(counts) == set("bcd")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_semantic_refuses_a_history_out_of_the_catalogue() -> None:
    with pytest.raises(RosepoError, match=r"u0:3.*not in the catalogue"):
        items(Semantic().build(ABCDE), row(history="x"))


def test_generated_takes_the_first_text_that_is_wrong() -> None:
    # The target, an item of the history, an item taken later, nothing; then an item in another spelling, a text that is
    # none, the item again, a title that two items bear.
    texts = ["casablanca", "star  wars", "Star Trek", " ", "STAR WARS returns", "Solaris", "Star Wars Returns", "Solo"]
    one = film_row(["m1"], "m4", {"m1", "m3", "m4"})
    found = picks(Generated().build(FILMS), one, 3, texts=texts)
    assert found == [
        Pick("m2", "Star Wars Returns", "generated"),
        Pick(None, "Solaris", "generated"),
        Pick(None, "Solo", "generated"),
    ]


def test_generated_a_title_of_several_items_has_no_id() -> None:
    one = film_row(["m3"], "m4", {"m3", "m4"})
    assert picks(Generated().build(FILMS), one, 2, texts=["star wars", "Star Wars"]) == [
        Pick(None, "star wars", "generated")
    ]


def test_generated_a_row_whose_texts_are_all_right_has_none() -> None:
    assert picks(Generated().build(FILMS), film_row(["m1"], "m4", {"m1", "m4"}), 2, texts=["Casablanca"] * 8) == []


def test_generated_asks_for_texts_of_each_slot() -> None:
    ask = Generated(tries=3, temperature=0.5).build(FILMS).ask(film_row(["m1"], "m4", {"m1", "m4"}), 2, 1)
    assert (ask.texts, ask.temperature, ask.scores, ask.drawn) == (6, 0.5, False, (None, None))


def test_slots_of_a_mix_share_the_texts_and_none_is_picked_twice() -> None:
    """Uniform has drawn while it was asked; the slots that write take what is wrong and left, in order."""
    strategy = Mix(parts={"generated": 2, "uniform": 1}).build(ABCDE)
    titles = [ABCDE.title_of(item) for item in "abcde"]
    for n in range(60):
        ask = strategy.ask(row(n), 3, 1)
        waiting = ask.drawn.count(None)
        assert ask.texts == 4 * waiting
        drawn = {pick.item_id for pick in ask.drawn if pick}
        found = strategy.pick(row(n), ask, Answers({}, titles), 1)
        written = [pick.item_id for pick in found if pick.strategy == "generated"]
        assert written == [item for item in "bcde" if item not in drawn][:waiting]


@given(st.lists(st.text(max_size=12), max_size=8), st.integers(1, 4))
def test_generated_keeps_its_word_whatever_is_written(texts: list[str], k: int) -> None:
    one = film_row(["m1"], "m4", {"m1", "m3", "m4"})
    found = picks(Generated().build(FILMS), one, k, texts=[*texts, *map(str.swapcase, FILMS.titles)])
    keys = [title_key(pick.text) for pick in found]
    assert len(set(keys)) == len(keys) <= k
    assert not set(keys) & {"", *(title_key(FILMS.title_of(item)) for item in ("m1", "m3", "m4"))}
    assert all((pick.item_id is None) == (FILMS.named(pick.text) is None) for pick in found)
