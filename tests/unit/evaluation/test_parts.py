"""Ranking, outcomes, popularity bias, over-selection, controls and the bootstrap, each alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rosepo_ray.catalogue.title_index import TitleIndex
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation import bias, significance
from rosepo_ray.evaluation.controls import popular
from rosepo_ray.evaluation.ranking import place_metrics, rank
from rosepo_ray.evaluation.semantic import over_selection_credit
from rosepo_ray.storage import tables

# Ranking


def test_rank_is_best_first_with_scores_in_that_order() -> None:
    ranked, scores = rank("u:1", ["a", "b", "c"], np.array([-3.0, -1.0, -2.0]))
    assert ranked == ["b", "c", "a"]
    assert scores.tolist() == [-1.0, -2.0, -3.0]
    assert scores.dtype == np.float32


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.randoms())
def test_rank_ignores_list_order_even_in_ties(scores: list[int], random) -> None:  # type: ignore[no-untyped-def]
    items = [f"i{n}" for n in range(len(scores))]
    pairs = list(zip(items, scores, strict=True))
    random.shuffle(pairs)
    turned = rank("u:1", [item for item, _ in pairs], np.array([score for _, score in pairs], dtype=float))[0]
    assert rank("u:1", items, np.array(scores, dtype=float))[0] == turned


def test_equal_scores_put_each_item_first_equally_often() -> None:
    counts = Counter(rank(f"u{n}:1", ["a", "b", "c", "d"], np.zeros(4))[0][0] for n in range(2000))
    assert chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("scores", [[1.0, np.nan], [1.0]])
def test_rank_refuses_scores_that_give_no_place(scores: list[float]) -> None:
    with pytest.raises(RosepoError, match=r"u:1.*2 items cannot be ranked"):
        rank("u:1", ["a", "b"], np.array(scores))


def test_place_metrics_by_hand() -> None:
    got = place_metrics(np.array([0, 1, 4, 5, 10]))
    assert got["hr@1"].tolist() == [1, 0, 0, 0, 0]
    assert got["hr@5"].tolist() == [1, 1, 1, 0, 0]
    assert got["hr@10"].tolist() == [1, 1, 1, 1, 0]
    # 1/log2(2) = 1, 1/log2(3) = 0.6309298, 1/log2(6) = 0.3868528, 1/log2(7) = 0.3562072.
    assert got["ndcg@5"] == pytest.approx([1, 0.6309298, 0.3868528, 0, 0], abs=1e-7)
    assert got["ndcg@10"] == pytest.approx([1, 0.6309298, 0.3868528, 0.3562072, 0], abs=1e-7)
    assert got["mrr"] == pytest.approx([1, 1 / 2, 1 / 5, 1 / 6, 1 / 11])


# Outcomes

INDEX = TitleIndex({"1": "Amélie (2001)", "2": "Heat (1995)", "3": "Hamlet", "4": "HAMLET ", "5": ""})


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Heat (1995)", ("item", "2")),
        ("  heat   (1995)\n", ("item", "2")),
        ("AME\u0301LIE (2001)", ("item", "1")),
        ("Heat", ("unknown", None)),  # the whole title
        ("Heat (1995) and more", ("unknown", None)),
        ("hamlet", ("ambiguous", None)),
        ("", ("unknown", None)),
    ],
)
def test_outcome(text: str, outcome: tuple[str, str | None]) -> None:
    assert INDEX.outcome(text) == outcome


def test_valid_wants_exactly_one_candidate() -> None:
    assert INDEX.valid("heat (1995)", ["1", "2"]) == "2"
    assert INDEX.valid("Heat (1995)", ["1", "3"]) is None
    assert INDEX.valid("Hamlet", ["1", "3"]) == "3"  # ambiguous in the catalogue, not among the candidates
    assert INDEX.valid("Hamlet", ["3", "4"]) is None
    assert INDEX.valid("", ["5"]) is None


# Popularity bias


def test_groups_have_equal_item_count_with_ties_by_id() -> None:
    # Sorted by (popularity, id): f0 a1 b1 c1 d5 e9 g9: seven items in five groups of 2, 2, 1, 1, 1.
    groups = bias.popularity_groups(list("abcdefg"), [1, 1, 1, 5, 9, 0, 9])
    assert dict(zip("abcdefg", groups.tolist(), strict=True)) == {
        "f": 0, "a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "g": 4,
    }  # fmt: skip


@given(st.lists(st.integers(0, 5), min_size=5, max_size=60))
def test_groups_differ_by_one_item_and_are_ordered(popularity: list[int]) -> None:
    groups = bias.popularity_groups([f"{n:03d}" for n in range(len(popularity))], popularity)
    sizes = np.bincount(groups, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    counts = np.array(popularity)
    assert all(counts[groups == g].max() <= counts[groups == g + 1].min() for g in range(4))


def test_unfairness_by_hand() -> None:
    # Recommended 1, 2, 0, 0, 1 of 4; histories 2, 1, 0, 1, 2 of 6: GU = -1/12, 1/3, 0, -1/6, -1/12.
    recommended, histories = np.array([1.0, 2, 0, 0, 1]), np.array([2.0, 1, 0, 1, 2])
    assert bias.group_unfairness(recommended, histories) == pytest.approx([-1 / 12, 1 / 3, 0, -1 / 6, -1 / 12])
    assert float(bias.mgu(recommended, histories)) == pytest.approx((1 + 4 + 0 + 2 + 1) / 12 / 5)
    assert float(bias.dgu(recommended, histories)) == pytest.approx(1 / 3 + 1 / 6)


def test_gini_by_hand() -> None:
    # Sorted 0, 0, 1, 1, 2 with factors -4, -2, 0, 2, 4: (2 + 8) / (5 * 4) = 0.5.
    assert bias.gini(np.array([1, 2, 0, 0, 1])) == pytest.approx(0.5)
    assert bias.gini(np.array([3, 3, 3])) == 0
    assert bias.gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert bias.coverage(np.array([1, 2, 0, 0, 1])) == pytest.approx(3 / 5)


# Semantic over-selection


def test_credit_goes_to_the_candidate_nearest_to_any_title_of_the_history() -> None:
    history = np.array([[1.0, 0], [0, 1.0]])
    # Largest cosines: x 0.8 (to the second title), y 0.96 (to the first), z -0.6.
    candidates = np.array([[0.6, 0.8], [0.96, 0.28], [-0.8, -0.6]])
    assert over_selection_credit(["x", "y", "z"], history, candidates) == {"y": 1.0}


def test_credit_is_shared_by_ties() -> None:
    history, candidates = np.array([[1.0, 0]]), np.array([[0, 1.0], [0, 1.0], [-1.0, 0], [0, -1.0]])
    third = pytest.approx(1 / 3)
    assert over_selection_credit(list("abcd"), history, candidates) == {"a": third, "b": third, "d": third}


# Controls


def test_popular_ranks_by_training_interactions() -> None:
    items = tables.from_rows(
        "items",
        [{"item_id": i, "title": i, "genres": None, "popularity": p} for i, p in (("a", 1), ("b", 9), ("c", 4))],
    )
    example = {"example_id": "u:1", "user_id": "u", "history": ["a"], "target": "c", "split": "test"}
    examples = tables.from_rows("examples", [example | {"candidates": ["c", "a", "b"]}])
    row = {"example_id": "u:1", "user_id": "u", "ranked": ["b", "c", "a"], "scores": [9.0, 4.0, 1.0],
           "generated": None, "outcome": None, "top": None, "top_scores": None, "written_item": None}  # fmt: skip
    assert popular(examples, items, {}).to_pylist() == [row]
    whole = {"top": ["b", "c", "a"], "top_scores": [9.0, 4.0, 1.0]}
    assert popular(examples, items, {"u:1": []}).to_pylist() == [row | whole]
    rest = {"top": ["c"], "top_scores": [4.0]}
    assert popular(examples, items, {"u:1": ["b", "a"]}).to_pylist() == [row | rest]
    with pytest.raises(RosepoError, match=r"u:1.*\['c', 'b'\]"):
        popular(examples, items.slice(0, 1), {})


# Bootstrap


def test_draws_are_whole_users_recomputed_row_by_row() -> None:
    """The matrix product equals resampling by hand: each draw's counts, read off the users' row counts."""
    rng = np.random.default_rng(0)
    units = [f"u{n}" for n in rng.integers(0, 6, size=40)]
    names = sorted(set(units))
    member = np.array([[unit == name for name in names] for unit in units], dtype=float)
    values = {"member": member, "x": rng.normal(size=40), "y": rng.normal(size=(40, 3))}
    drawn = significance.bootstrap({"m": values}, units, draws=50, seed=4)["m"]
    rows_of = member.sum(axis=0)
    for draw in range(50):
        times = drawn["member"][draw] / rows_of
        assert np.array_equal(times, np.round(times))  # a user comes with all rows
        assert times.sum() == len(names)  # as many users as there are
        rows = [r for r, unit in enumerate(units) for _ in range(int(times[names.index(unit)]))]
        assert drawn["x"][draw] == pytest.approx(values["x"][rows].sum())
        assert drawn["y"][draw] == pytest.approx(values["y"][rows].sum(axis=0))


def test_draws_are_multinomial_over_users() -> None:
    units = ["a", "b", "c", "d"]
    counts = significance.bootstrap({"m": {"id": np.eye(4)}}, units, draws=4000, seed=1)["m"]["id"]
    # Each user's count is binomial(4, 1/4): P(0) = 81/256, P(1) = 108/256, P(2) = 54/256, P(3 or 4) = 13/256.
    observed = np.bincount(np.minimum(counts[:, 0], 3).astype(int), minlength=4)
    assert chisquare(observed, 4000 * np.array([81, 108, 54, 13]) / 256).pvalue > 0.001


def test_memory_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, units = {"x": np.arange(10.0)}, [f"u{n}" for n in range(10)]
    whole = significance.bootstrap({"m": values}, units, draws=30, seed=2)["m"]["x"]
    monkeypatch.setattr(significance, "_BLOCK", 70)
    assert np.array_equal(whole, significance.bootstrap({"m": values}, units, draws=30, seed=2)["m"]["x"])


def test_rows_of_one_user_do_not_count_as_independent() -> None:
    """20 users with 10 equal rows each: the standard error is that of 20 values, sqrt(0.25 / 20) = 0.1118."""
    hits = np.repeat([1.0, 0.0], 100)
    components = {"x": hits, "rows": np.ones(200)}
    by_user = significance.bootstrap({"m": components}, [f"u{n // 10}" for n in range(200)], draws=4000, seed=1)["m"]
    by_row = significance.bootstrap({"m": components}, [f"r{n}" for n in range(200)], draws=4000, seed=1)["m"]
    assert np.std(by_user["x"] / by_user["rows"]) == pytest.approx(0.1118, rel=0.05)
    assert np.std(by_row["x"] / by_row["rows"]) == pytest.approx(0.1118 / np.sqrt(10), rel=0.05)


def test_interval_is_the_middle_95_percent() -> None:
    low, high = significance.interval(np.arange(1001.0))
    assert (low, high) == (pytest.approx(25), pytest.approx(975))


def test_bootstrap_refuses_components_of_other_rows() -> None:
    with pytest.raises(RosepoError, match=r"\['x'\] of model 'm'.*3 rows"):
        significance.bootstrap({"m": {"x": np.ones(2)}}, ["a", "b", "c"], draws=5, seed=1)
