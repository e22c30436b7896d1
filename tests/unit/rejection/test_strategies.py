"""Each strategy on examples made by hand, and the distributions that they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from rosepo_ray.catalogue.items import title_key
from rosepo_ray.config.rejection import Mix, Popularity, SelfHard, Semantic, Uniform
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.rejection import Catalogue, Pick, RejectionRow, build
from rosepo_ray.rejection.semantic import SemanticStrategy
from rosepo_ray.storage import tables

ABCDE = Catalogue(list("abcde"), [f"Title number {c * 4}" for c in "abcde"], [10, 20, 30, 40, 0])


def row(number: int = 0, *, history: str = "a", target: str = "a", excluded: str = "a") -> RejectionRow:
    return RejectionRow(f"u{number}:3", f"u{number}", list(history), target, list("abcde"), frozenset(excluded))


def test_self_hard_takes_the_likeliest_wrong_candidate_then_the_next() -> None:
    # The target a is the likeliest of all and must not be taken; then c (-1.5), b (-2), e (-3), d (-9).
    logps = np.array([-1.0, -2.0, -1.5, -9.0, -3.0])
    strategy = build(SelfHard(), ABCDE, "tfidf")
    picks = strategy.complete(row(), strategy.propose(row(), 3, 1), logps, 1)
    assert picks == [Pick("c", "self_hard"), Pick("b", "self_hard"), Pick("e", "self_hard")]


def test_self_hard_ties_are_spread_over_the_items() -> None:
    strategy = build(SelfHard(), ABCDE, "tfidf")
    counts = Counter(strategy.complete(row(n), [None], np.zeros(5), 1)[0].item_id for n in range(400))
    assert set(counts) == set("bcde")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_self_hard_sample_follows_the_softmax() -> None:
    # Temperature 2 over b..e with logps 0, -2 ln 2, -2 ln 4, -2 ln 8 gives weights 1, 1/2, 1/4, 1/8: 8:4:2:1 of 15.
    logps = np.array([5.0, 0.0, -2 * np.log(2), -2 * np.log(4), -2 * np.log(8)])
    strategy = build(SelfHard(pick="sample", temperature=2.0), ABCDE, "tfidf")
    counts = Counter(strategy.complete(row(n), [None], logps, 1)[0].item_id for n in range(3000))
    observed = [counts[item] for item in "bcde"]
    assert chisquare(observed, [1600, 800, 400, 200]).pvalue > 0.001


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # Without a: popularity 20, 30, 40, 0. alpha 1: 2/9, 3/9, 4/9, 0; alpha 2: 4/29, 9/29, 16/29, 0; alpha 0: quarters.
    [(1.0, [2 / 9, 3 / 9, 4 / 9, 0]), (2.0, [4 / 29, 9 / 29, 16 / 29, 0]), (0.0, [1 / 4] * 4)],
)
def test_popularity_follows_the_power_of_popularity(alpha: float, expected: list[float]) -> None:
    strategy = build(Popularity(type="popularity", alpha=alpha), ABCDE, "tfidf")
    counts = Counter(pick.item_id for n in range(3000) for pick in strategy.propose(row(n), 1, 1) if pick)
    kept = [(counts[item], 3000 * share) for item, share in zip("bcde", expected, strict=True) if share]
    assert sum(observed for observed, _ in kept) == 3000  # nothing where the share is 0
    assert chisquare([o for o, _ in kept], [e for _, e in kept]).pvalue > 0.001


def test_popularity_masks_when_redrawing_would_not_end() -> None:
    """All but 3 millionths of the popularity is taken: 64 draws do not hit what is left, the mask does, as 1 : 2."""
    catalogue = Catalogue(list("abc"), ["one", "two", "three"], [10**6, 1, 2])
    strategy = build(Popularity(type="popularity"), catalogue, "tfidf")
    counts = Counter(p.item_id for n in range(900) for p in strategy.propose(row(n), 1, 1) if p)
    assert set(counts) == {"b", "c"}
    assert chisquare([counts["b"], counts["c"]], [300, 600]).pvalue > 0.001


def test_popularity_does_not_overflow_with_a_large_alpha() -> None:
    strategy = build(Popularity(type="popularity", alpha=500), ABCDE, "tfidf")
    assert strategy.propose(row(), 1, 1) == [Pick("d", "popularity")]


def test_popularity_without_interactions_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no item has a training interaction"):
        build(Popularity(type="popularity"), Catalogue(["a", "b"], ["A", "B"], [0, 0]), "tfidf")


def test_popularity_cannot_pick_what_nobody_took() -> None:
    with pytest.raises(BadInput, match=r"u0:3.*popularity"):
        build(Popularity(type="popularity"), ABCDE, "tfidf").propose(row(excluded="abcd"), 1, 1)


def test_uniform_is_uniform_over_the_wrong_candidates() -> None:
    strategy = build(Uniform(type="uniform"), ABCDE, "tfidf")
    counts = Counter(pick.item_id for n in range(2000) for pick in strategy.propose(row(n), 1, 1) if pick)
    assert set(counts) == set("bcde")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_mix_draws_strategies_by_weight() -> None:
    strategy = build(Mix(type="mix", self_hard=0, popularity=3, uniform=1), ABCDE, "tfidf")
    assert not strategy.needs_scores
    names = Counter(pick.strategy for n in range(2000) for pick in strategy.propose(row(n), 1, 1) if pick)
    assert chisquare([names["popularity"], names["uniform"]], [1500, 500]).pvalue > 0.001


def test_mix_completion_avoids_what_other_slots_took() -> None:
    """b is the likeliest wrong candidate; where another slot took it, self_hard takes the next, c."""
    strategy = build(Mix(type="mix", self_hard=1, uniform=1), ABCDE, "tfidf")
    logps, seen = np.array([0.0, -1, -2, -3, -4]), set()
    for n in range(200):
        proposed = strategy.propose(row(n), 2, 1)
        if (proposed[0] is None) != (proposed[1] is None):
            other = next(pick.item_id for pick in proposed if pick)
            hard = next(p.item_id for p in strategy.complete(row(n), proposed, logps, 1) if p.strategy == "self_hard")
            assert hard == ("c" if other == "b" else "b")
            seen.add(other)
    assert "b" in seen
    assert len(seen) > 1


FILMS = Catalogue(
    ["m1", "m2", "m3", "m4", "m5", "m6"],
    ["Star Wars", "Star Wars Returns", "Star Trek", "Casablanca", "STAR  WARS", "Casablanca Nights"],
    [1] * 6,
)


def film_row(history: list[str], target: str, excluded: set[str]) -> RejectionRow:
    return RejectionRow("u1:2", "u1", history, target, ["m4", target], frozenset(excluded))


def test_semantic_takes_the_nearest_title_never_taken() -> None:
    # History "Star Wars". m5 bears the same title under another id: taken, whatever its id. So the sequel m2, then m3.
    picks = build(Semantic(type="semantic"), FILMS, "tfidf").propose(film_row(["m1"], "m4", {"m1", "m4"}), 2, 1)
    assert [pick.item_id for pick in picks if pick] == ["m2", "m3"]


def test_semantic_avoids_excluded_items() -> None:
    picks = build(Semantic(type="semantic"), FILMS, "tfidf").propose(film_row(["m1"], "m4", {"m1", "m4", "m2"}), 1, 1)
    assert [pick.item_id for pick in picks if pick] == ["m3"]


class PlaneEncoder:
    """Titles are their own coordinates: cosines that can be worked out by hand."""

    name = description = "plane"

    def encode(self, titles: Sequence[str]) -> np.ndarray:
        return np.array([[float(part) for part in title.split()] for title in titles])


def test_semantic_is_the_maximum_over_the_history() -> None:
    # To the history (1, 0), (0, 1): c has cosines 0.96 and 0.28, d has 0.6 and 0.8. The largest cosine prefers c
    # (0.96 over 0.8); the mean would prefer d (0.7 over 0.62).
    plane = Catalogue(list("abcd"), ["1 0", "0 1", "0.96 0.28", "0.6 0.8"], [1] * 4)
    strategy = SemanticStrategy(Semantic(type="semantic"), plane, PlaneEncoder())
    picks = strategy.propose(row(history="ab", target="a", excluded="ab"), 2, 1)
    assert [pick.item_id for pick in picks if pick] == ["c", "d"]


def test_semantic_top_draws_uniformly_from_the_nearest() -> None:
    strategy = build(Semantic(type="semantic", top=2), FILMS, "tfidf")
    rows = [RejectionRow(f"u{n}:2", "u", ["m1"], "m4", ["m4"], frozenset({"m1", "m4"})) for n in range(1000)]
    counts = Counter(pick.item_id for one in rows for pick in strategy.propose(one, 1, 1) if pick)
    assert set(counts) == {"m2", "m3"}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_semantic_ties_are_spread_by_row() -> None:
    """Nothing shares a letter with the history: every item is as near as the others."""
    catalogue = Catalogue(list("abcd"), ["zzzz", "bbbb", "cccc", "dddd"], [1] * 4)
    strategy = build(Semantic(type="semantic"), catalogue, "tfidf")
    counts = Counter(pick.item_id for n in range(600) for pick in strategy.propose(row(n), 1, 1) if pick)
    assert set(counts) == set("bcd")
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_semantic_refuses_a_history_out_of_the_catalogue() -> None:
    with pytest.raises(RosepoError, match=r"u0:3.*not in the catalogue"):
        build(Semantic(type="semantic"), ABCDE, "tfidf").propose(row(history="x"), 1, 1)


def test_catalogue_from_the_items_table() -> None:
    items = [{"item_id": "x", "title": "X", "genres": None, "popularity": 4}]
    assert Catalogue.from_table(tables.from_rows("items", items)) == Catalogue(("x",), ("X",), (4,))


def test_catalogue_refuses_repeated_ids() -> None:
    with pytest.raises(RosepoError, match="only 1 are distinct"):
        Catalogue(["x", "x"], ["X", "Y"], [1, 1])


def test_title_key_joins_spellings_of_one_title() -> None:
    composed, decomposed = "Am\u00e9lie (2001)", "AME\u0301LIE   (2001) "
    assert title_key(composed) == title_key(decomposed)
    assert title_key("STRASSE") == title_key("Stra\u00dfe")
    assert title_key("Heat (1995)") != title_key("Heat (1986)")
