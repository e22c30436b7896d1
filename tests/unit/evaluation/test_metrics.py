"""The whole evaluation on small tables, with the arithmetic written out, and what must hold on any table."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.catalogue.encoders import build_encoder
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.metrics import evaluate, summarise
from rosepo_ray.evaluation.per_row import average, collect, judge
from rosepo_ray.storage import tables

TITLES = {"a": "Star Wars", "b": "Star Wars Returns", "c": "Casablanca", "d": "Heat", "e": "Star Trek"}
POPULARITY = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 10}  # so the five groups are a, b, c, d, e
EXAMPLES = [
    ("u1:1", "u1", "a", "b", "bce"),
    ("u1:2", "u1", "ab", "c", "cde"),
    ("u2:1", "u2", "e", "d", "abd"),
    ("u2:2", "u2", "ed", "a", "abc"),
]
# Places of the targets: 0, 1, 2, 0. Top-1: b, e, b, a.
RANKED = {"u1:1": "bce", "u1:2": "ecd", "u2:1": "bad", "u2:2": "acb"}
NAMES = {
    "hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr", "arp", "popularity_gap", "popularity_gap_abs", "mgu@1",
    "dgu@1", "gini", "coverage", "semantic_over_selection", "catalogue_ratio", "ambiguous_ratio", "valid_ratio",
    "hr@1_valid",
}  # fmt: skip
FULL = {
    "full_hr@1", "full_hr@5", "full_hr@10", "full_ndcg@5", "full_ndcg@10", "full_mrr@10", "full_arp",
    "full_popularity_gap", "full_popularity_gap_abs", "full_mgu@1", "full_dgu@1", "full_gini@10", "full_coverage@10",
    "full_written_hr@1",
}  # fmt: skip


def items_table(titles: dict[str, str] = TITLES) -> pa.Table:
    rows = [{"item_id": i, "title": t, "genres": None, "popularity": POPULARITY.get(i, 0)} for i, t in titles.items()]
    return tables.from_rows("items", rows)


def examples_table(examples: list[tuple[str, str, str, str, str]] = EXAMPLES, seen: int = 0) -> pa.Table:
    names = ("example_id", "user_id", "history", "target", "candidates", "split", "seen")
    rows = [(e, u, list(h), t, list(c), "test", seen) for e, u, h, t, c in examples]
    return tables.from_rows("examples", [dict(zip(names, row, strict=True)) for row in rows])


def predictions_table(ranked: dict[str, str], texts: dict[str, str | None] | None = None) -> pa.Table:
    rows = [
        {"example_id": e, "user_id": e.split(":")[0], "ranked": list(r), "scores": [-float(n) for n in range(len(r))],
         "generated": None if texts is None else texts.get(e), "outcome": None}
        for e, r in ranked.items()
    ]  # fmt: skip
    return tables.from_rows("predictions", rows)


SEQUENCES = tables.from_rows("sequences", [{"user_id": "u1", "items": ["a", "b", "e", "e"]}])


def run(models: dict[str, pa.Table], **options: Any) -> dict[str, Any]:
    examples, items = options.pop("examples", examples_table()), options.pop("items", items_table())
    encoder = build_encoder("tfidf", items.column("title").to_pylist())
    chosen = {"listed": False, "draws": 2000, "seed": 1} | options
    return evaluate(models, examples, items, SEQUENCES, encoder, **chosen)


def test_every_metric_by_hand() -> None:
    result = run({"aligned": predictions_table(RANKED)})
    metrics = result["models"]["aligned"]
    assert set(metrics) == NAMES | FULL
    for name in FULL:
        assert metrics[name]["value"] is None
        assert "evaluation.catalogue_examples" in metrics[name]["reason"] or "beams" in metrics[name]["reason"]
    expected = {
        "hr@1": 2 / 4,
        "hr@5": 1.0,
        "hr@10": 1.0,
        "ndcg@5": (1 + 1 / math.log2(3) + 1 / 2 + 1) / 4,
        "ndcg@10": (1 + 1 / math.log2(3) + 1 / 2 + 1) / 4,
        "mrr": (1 + 1 / 2 + 1 / 3 + 1) / 4,
        "arp": (2 + 10 + 2 + 1) / 4,
        "popularity_gap": 15 / 4 - 10 / 4,  # targets b, c, d, a: 2 + 3 + 4 + 1
        "popularity_gap_abs": 5 / 4,
        # Recommended a 1, b 2, e 1 of 4; histories a 2, b 1, d 1, e 2 of 6: GU -1/12, 1/3, 0, -1/6, -1/12.
        "mgu@1": 8 / 12 / 5,
        "dgu@1": 1 / 3 + 1 / 6,
        "gini": 0.5,  # counts 0, 0, 1, 1, 2: (2 + 8) / (5 * 4)
        "coverage": 3 / 5,
        # Wrong: u1:2 took e, the nearer of d, e to "Star Wars"; u2:1 took b, but a is nearer to "Star Trek".
        "semantic_over_selection": 1 / 2,
    }
    assert {name: metrics[name]["value"] for name in expected} == pytest.approx(expected)
    assert {name: metrics[name]["rows"] for name in expected} == dict.fromkeys(expected, 4) | {
        "semantic_over_selection": 2
    }
    assert metrics["semantic_over_selection"]["chance"] == pytest.approx(1 / 2)  # two wrong candidates
    assert result["target_arp"] == 2.5
    json.dumps(result, allow_nan=False)


def with_top(table: pa.Table, top: dict[str, str], written: dict[str, str] | None = None) -> pa.Table:
    """`table` with the whole catalogue ranked for the rows in `top`."""
    rows = table.to_pylist()
    for row in rows:
        if row["example_id"] in top:
            ranking = list(top[row["example_id"]])
            row |= {"top": ranking, "top_scores": [-float(n) for n in range(len(ranking))]}
            row["written_item"] = None if written is None else written[row["example_id"]]
    return tables.from_rows("predictions", rows)


def test_metrics_of_the_whole_catalogue_by_hand() -> None:
    """For two of the four rows all five items are ranked."""
    top = {"u1:2": "ebcad", "u2:1": "dabce"}  # targets c and d: places 2 and 0
    table = with_top(predictions_table(RANKED), top, {"u1:2": "c", "u2:1": "a"})
    metrics = run({"aligned": table})["models"]["aligned"]
    expected = {
        "full_hr@1": 1 / 2,
        "full_hr@5": 1.0,
        "full_hr@10": 1.0,
        "full_ndcg@5": (1 / 2 + 1) / 2,
        "full_ndcg@10": (1 / 2 + 1) / 2,
        "full_mrr@10": (1 / 3 + 1) / 2,
        "full_arp": (10 + 4) / 2,
        "full_popularity_gap": 7 - (3 + 4) / 2,
        "full_gini@10": 0.0,  # five places: every item twice
        "full_coverage@10": 1.0,
        "full_written_hr@1": 1 / 2,
    }
    assert {name: metrics[name]["value"] for name in expected} == pytest.approx(expected)
    assert {metrics[name]["rows"] for name in FULL} == {2}
    by_hand = {example_id: history for example_id, _, history, _, _ in EXAMPLES if example_id in top}
    # Recommended: e and d, half each (groups 4 and 3, as five items make five groups in the order a b c d e).
    taken = "".join(by_hand.values())
    gu = [("ed".count(item) / 2) - taken.count(item) / len(taken) for item in "abcde"]
    assert metrics["full_mgu@1"]["value"] == pytest.approx(sum(map(abs, gu)) / 5)
    assert metrics["full_dgu@1"]["value"] == pytest.approx(max(gu) - min(gu))
    assert metrics["hr@1"]["rows"] == 4


def test_a_target_beyond_the_tenth_place_is_a_miss() -> None:
    titles = {chr(97 + n): f"Title {n}" for n in range(12)}
    table = with_top(predictions_table({"u1:1": "bce"}), {"u1:1": "acdefghijk"})
    metrics = run({"aligned": table}, examples=examples_table(EXAMPLES[:1]), items=items_table(titles))["models"]
    assert {metrics["aligned"][name]["value"] for name in ("full_hr@10", "full_mrr@10", "full_ndcg@10")} == {0.0}
    assert metrics["aligned"]["full_coverage@10"]["value"] == pytest.approx(10 / 12)
    assert metrics["aligned"]["full_written_hr@1"]["value"] is None


@pytest.mark.parametrize("ranking", ["abcd", "abcda", "abcdz"])
def test_a_ranking_that_is_none_of_the_whole_catalogue_is_refused(ranking: str) -> None:
    with pytest.raises(RosepoError, match=r"'aligned', row u1:2: its ranking of the whole catalogue must hold 5"):
        run({"aligned": with_top(predictions_table(RANKED), {"u1:2": ranking})})


def test_a_ranking_of_what_was_not_seen_is_shorter() -> None:
    """Two of five items were taken before: three places, of which a target has the third."""
    table = with_top(predictions_table(RANKED), {"u1:2": "edc"})
    metrics = run({"aligned": table}, examples=examples_table(seen=2))["models"]["aligned"]
    assert metrics["full_mrr@10"]["value"] == pytest.approx(1 / 3)
    assert metrics["full_coverage@10"]["value"] == pytest.approx(3 / 5)
    with pytest.raises(RosepoError, match="must hold 3"):
        run({"aligned": with_top(predictions_table(RANKED), {"u1:2": "edcab"})}, examples=examples_table(seen=2))


def test_models_that_ranked_the_catalogue_for_other_rows_are_refused() -> None:
    first, second = (with_top(predictions_table(RANKED), {row: "abcde"}) for row in ("u1:1", "u1:2"))
    with pytest.raises(RosepoError, match="'sft' ranked the whole catalogue for other rows than 'aligned'"):
        run({"aligned": first, "sft": second})


def test_intervals_by_hand() -> None:
    """Two users: a draw is (2, 0), (1, 1) or (0, 2) with chances 1/4, 1/2, 1/4; the ends are the extreme draws."""
    metrics = run({"aligned": predictions_table(RANKED)})["models"]["aligned"]
    expected = {
        "hr@1": (1 / 2, 1 / 2),  # one hit of two for either user
        "mrr": ((1 / 3 + 1) / 2, (1 + 1 / 2) / 2),
        "arp": ((2 + 1) / 2, (2 + 10) / 2),
        "popularity_gap": (3 / 2 - 5 / 2, 12 / 2 - 5 / 2),
        "popularity_gap_abs": (1.0, 3.5),
        # u1 alone: GU -2/3, 1/2 - 1/3, 0, 0, 1/2 -> 8/30; u2 alone: 1/2, 1/2, 0, -1/3, -2/3 -> 2/5; both: 2/15.
        "mgu@1": (2 / 15, 2 / 5),
        "dgu@1": (1 / 2, 7 / 6),  # both: 1/2; u1: 1/2 + 2/3; u2: 1/2 + 2/3
        "semantic_over_selection": (0.0, 1.0),
    }
    assert {n: (metrics[n]["low"], metrics[n]["high"]) for n in expected} == {
        n: pytest.approx(v) for n, v in expected.items()
    }
    for name in ("gini", "coverage"):
        assert (metrics[name]["low"], metrics[name]["high"]) == (None, None)
        assert "no interval" in metrics[name]["reason"]


def test_differences_are_paired() -> None:
    """SFT misses u1:1 too (places 1, 1, 2, 0): -1/4 in HR@1; u1 alone loses 1/2, u2 alone nothing."""
    sft = predictions_table(RANKED | {"u1:1": "cbe"})
    result = run({"sft": sft, "aligned": predictions_table(RANKED), "popular": sft})
    assert set(result["differences"]) == {"aligned-sft", "aligned-popular"}
    difference = result["differences"]["aligned-sft"]
    assert difference["hr@1"] == {"value": pytest.approx(1 / 4), "low": 0.0, "high": pytest.approx(1 / 2)}
    # Top-1 b (2) instead of c (3): ARP falls by 1/4; u1 alone by 1/2.
    assert difference["arp"] == {"value": pytest.approx(-1 / 4), "low": pytest.approx(-1 / 2), "high": 0.0}
    assert difference["gini"]["low"] is None
    assert "no interval" in difference["gini"]["reason"]
    assert difference["valid_ratio"]["value"] is None
    assert difference["valid_ratio"]["reason"] == "the model writes no text"


def test_without_an_aligned_model_there_is_no_difference() -> None:
    assert run({"sft": predictions_table(RANKED)})["differences"] == {}


WITH_TWINS = TITLES | {"f": "Solaris", "g": "SOLARIS"}
TEXTS: dict[str, str | None] = {
    "u1:1": "star wars  RETURNS",  # b: a candidate and the target
    "u1:2": "Heat",  # d: a candidate, but the target is c
    "u2:1": "Casablanca",  # an item, but not among a, b, d
    "u2:2": "Solaris",  # ambiguous
}


def test_written_titles_by_hand() -> None:
    items = items_table(WITH_TWINS)
    metrics = run({"sft": predictions_table(RANKED, TEXTS)}, items=items, listed=True)["models"]["sft"]
    got = {n: (metrics[n]["value"], metrics[n]["rows"]) for n in ("catalogue_ratio", "ambiguous_ratio", "valid_ratio")}
    assert got == {"catalogue_ratio": (1.0, 4), "ambiguous_ratio": (1 / 4, 4), "valid_ratio": (2 / 4, 4)}
    # Over the two valid rows one is right. u2 has no valid row, so the draw (0, 2) has nothing to divide by.
    assert metrics["hr@1_valid"] == {
        "value": 1 / 2, "low": None, "high": None, "rows": 2,
        "reason": "no interval: some bootstrap draws have no row that enters",
    }  # fmt: skip


def test_a_text_that_is_no_title_is_a_miss() -> None:
    texts = TEXTS | {"u1:1": "Star Wars Retur", "u2:2": ""}
    metrics = run({"sft": predictions_table(RANKED, texts)}, listed=True)["models"]["sft"]
    assert metrics["catalogue_ratio"]["value"] == 2 / 4
    assert metrics["valid_ratio"]["value"] == 1 / 4
    assert metrics["hr@1_valid"]["value"] == 0.0


def test_metrics_that_do_not_apply_are_null_with_a_reason() -> None:
    models = {"popular": predictions_table(RANKED), "sft": predictions_table(RANKED, TEXTS)}
    metrics = run(models, items=items_table(WITH_TWINS))["models"]
    for name in ("catalogue_ratio", "ambiguous_ratio", "valid_ratio", "hr@1_valid"):
        assert metrics["popular"][name] == {
            "value": None, "low": None, "high": None, "rows": 0, "reason": "the model writes no text",
        }  # fmt: skip
    for name in ("valid_ratio", "hr@1_valid"):
        assert metrics["sft"][name]["reason"] == "the prompt does not list the candidates"
    perfect = predictions_table({e: t + "".join(set(c) - {t}) for e, _, _, t, c in EXAMPLES})
    entry = run({"sft": perfect})["models"]["sft"]["semantic_over_selection"]
    assert (entry["value"], entry["reason"]) == (None, "no row has a wrong top-1")


def test_no_valid_row_gives_null() -> None:
    texts: dict[str, str | None] = dict.fromkeys(RANKED, "nothing")
    metrics = run({"sft": predictions_table(RANKED, texts)}, listed=True)["models"]["sft"]
    assert metrics["valid_ratio"]["value"] == 0.0
    assert metrics["hr@1_valid"]["reason"] == "no row names exactly one candidate"


def test_without_user_ids_rows_are_resampled_and_it_says_so() -> None:
    examples = examples_table([(e, "", h, t, c) for e, _, h, t, c in EXAMPLES])
    result = run({"aligned": predictions_table(RANKED)}, examples=examples)
    assert result["notes"]["bootstrap"]["unit"] == "row"
    assert "no user ids" in result["notes"]["bootstrap"]["remark"]
    # Hits are (1, 0, 0, 1): with rows as units HR@1 varies, which it does not with users.
    assert (result["models"]["aligned"]["hr@1"]["low"], result["models"]["aligned"]["hr@1"]["high"]) == (0.0, 1.0)


def test_some_user_ids_are_no_user_ids() -> None:
    examples = examples_table([(e, u if u == "u1" else "", h, t, c) for e, u, h, t, c in EXAMPLES])
    with pytest.raises(RosepoError, match="some examples have a user_id"):
        run({"aligned": predictions_table(RANKED)}, examples=examples)


def test_one_user_has_no_interval() -> None:
    examples = examples_table(EXAMPLES[:2])
    table = predictions_table({e: RANKED[e] for e in ("u1:1", "u1:2")})
    entry = run({"aligned": table}, examples=examples)["models"]["aligned"]["mrr"]
    assert entry["value"] == 0.75
    assert entry["low"] is None
    assert "one user" in entry["reason"]


def test_notes_describe_the_groups() -> None:
    notes = run({"aligned": predictions_table(RANKED)})["notes"]
    assert notes["candidates"] == 3
    assert notes["encoder"]["name"] == "tfidf"
    # Group of e: one item, 10 interactions; 2 of 6 history items, no target, 2 of 4 items of the sequences.
    assert notes["groups"][4] == {
        "items": 1, "popularity_min": 10, "popularity_max": 10, "history_share": pytest.approx(1 / 3),
        "target_share": 0.0, "training_share": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranked", "message"),
    [
        ({"u1:1": "bce", "u1:2": "ecd", "u2:1": "bad"}, "exactly once"),
        (RANKED | {"u9:9": "abc"}, "exactly once"),
        (RANKED | {"u1:2": "ec"}, "u1:2.*not a permutation"),
        (RANKED | {"u1:2": "ece"}, "u1:2.*not a permutation"),
        (RANKED | {"u1:2": "ecb"}, "u1:2.*not a permutation"),
    ],
)
def test_predictions_must_answer_each_row_with_a_permutation(ranked: dict[str, str], message: str) -> None:
    with pytest.raises(RosepoError, match=message):
        run({"aligned": predictions_table(ranked)})


def test_repeated_predictions_are_refused() -> None:
    table = predictions_table(RANKED)
    with pytest.raises(RosepoError, match="exactly once"):
        run({"aligned": pa.concat_tables([table, table.slice(0, 1)])})


def test_texts_for_some_rows_only_are_refused() -> None:
    with pytest.raises(RosepoError, match="3 of 4 rows"):
        run({"aligned": predictions_table(RANKED, {e: t for e, t in TEXTS.items() if e != "u2:2"})})


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (("u1:1", "u1", "a", "b", "cde"), "hold the target b"),
        (("u1:1", "u1", "a", "b", "bbc"), "distinct"),
        (("u1:1", "u1", "", "b", "bce"), "history is empty"),
        (("u1:1", "u1", "z", "b", "bce"), r"\['z'\] are not in the items"),
        (("u1:2", "u1", "a", "b", "bce"), "comes twice"),
    ],
)
def test_broken_examples_are_refused(example: tuple[str, str, str, str, str], message: str) -> None:
    with pytest.raises(RosepoError, match=message):
        run({"aligned": predictions_table(RANKED)}, examples=examples_table([example, *EXAMPLES[1:]]))


# What must hold on any table


def random_tables(seed: int, users: int = 12) -> tuple[pa.Table, pa.Table, dict[str, pa.Table]]:
    rng = random.Random(seed)
    ids = [f"i{n:02d}" for n in range(30)]
    items = tables.from_rows(
        "items",
        [{"item_id": i, "title": f"{rng.choice(ids)} {rng.choice(ids)} {i}", "genres": None,
          "popularity": rng.randrange(50)} for i in ids],
    )  # fmt: skip
    rows, models = [], {"sft": [], "sft_longer": [], "aligned": []}
    for user in range(users):
        for position in range(rng.randrange(1, 6)):
            drawn = rng.sample(ids, 12)
            rows.append(
                {"example_id": f"u{user}:{position}", "user_id": f"u{user}", "history": drawn[:3],
                 "target": drawn[3], "candidates": rng.sample(drawn[3:], 9), "split": "test"}
            )  # fmt: skip
            for predictions in models.values():
                text = rng.choice([*items.column("title").to_pylist(), "nonsense"])
                predictions.append(
                    {"example_id": f"u{user}:{position}", "user_id": f"u{user}", "ranked": rng.sample(drawn[3:], 9),
                     "scores": [0.0] * 9, "generated": text, "outcome": None}
                )  # fmt: skip
    return tables.from_rows("examples", rows), items, {m: tables.from_rows("predictions", r) for m, r in models.items()}


def judge_all(examples: pa.Table, items: pa.Table, models: dict[str, pa.Table], draws: int = 200) -> dict[str, Any]:
    encoder = build_encoder("tfidf", sorted(items.column("title").to_pylist()))
    sequences = tables.from_rows("sequences", [{"user_id": "u0", "items": ["i00"]}])
    return evaluate(models, examples, items, sequences, encoder, listed=True, draws=draws, seed=7)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_order_of_rows_and_models_changes_nothing(seed: int) -> None:
    examples, items, models = random_tables(seed)
    rng = np.random.default_rng(seed)
    turned = {m: t.take(rng.permutation(t.num_rows)) for m, t in reversed(models.items())}
    shuffled = judge_all(
        examples.take(rng.permutation(examples.num_rows)), items.take(rng.permutation(items.num_rows)), turned
    )
    assert shuffled == judge_all(examples, items, models)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_bounds(seed: int) -> None:
    result = judge_all(*random_tables(seed))
    for metrics in result["models"].values():
        for name, entry in metrics.items():
            ends = [entry[key] for key in ("value", "low", "high") if entry[key] is not None]
            if name not in ("arp", "popularity_gap", "popularity_gap_abs"):
                upper = 2 if name == "dgu@1" else 1
                assert all(-1e-9 <= value <= upper + 1e-9 for value in ends), name
            assert entry["low"] is None or entry["low"] <= entry["high"]
        assert metrics["hr@1"]["value"] <= metrics["hr@5"]["value"] <= metrics["hr@10"]["value"]
        assert metrics["hr@1"]["value"] <= metrics["mrr"]["value"]
        gap = metrics["arp"]["value"] - result["target_arp"]
        assert metrics["popularity_gap"]["value"] == pytest.approx(gap)
        assert metrics["popularity_gap_abs"]["value"] == pytest.approx(abs(gap))


def test_intervals_of_means_contain_the_value_and_repeat() -> None:
    tables_ = random_tables(3, users=40)
    first = judge_all(*tables_, draws=1000)
    assert first == judge_all(*tables_, draws=1000)
    for metrics in first["models"].values():
        for name in ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "popularity_gap", "catalogue_ratio", "valid_ratio"):
            assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    # Nine candidates at random: a wrong top-1 is the nearest of the eight wrong ones in 1 of 8 cases.
    entry = first["models"]["sft"]["semantic_over_selection"]
    assert entry["chance"] == pytest.approx(1 / 8)
    assert entry["low"] <= 1 / 8 <= entry["high"]


def test_identical_models_differ_by_exactly_nothing() -> None:
    examples, items, models = random_tables(5)
    same = judge_all(examples, items, {"sft": models["sft"], "aligned": models["sft"]})["differences"]["aligned-sft"]
    for name, entry in same.items():
        if name in ("gini", "coverage"):
            assert entry["value"] == 0.0
        elif entry["low"] is not None:
            assert (entry["value"], entry["low"], entry["high"]) == (0.0, 0.0, 0.0), name


# Training seeds


def test_training_seeds_are_averaged_per_row_first() -> None:
    items = items_table()
    judged = judge(examples_table(), items, build_encoder("tfidf", list(TITLES.values())), listed=False)
    # The second seed is right everywhere: places 0, 0, 0, 0 and top-1 b, c, d, a.
    perfect = predictions_table({"u1:1": "bce", "u1:2": "cde", "u2:1": "dab", "u2:2": "abc"})
    tables_ = [collect("aligned", table, judged) for table in (predictions_table(RANKED), perfect)]
    metrics = summarise({"aligned": average(tables_)}, judged, draws=500, seed=1)["models"]["aligned"]
    # Row means of the hits: 1, 1/2, 1/2, 1; either user alone has 3/4.
    assert metrics["hr@1"] == {"value": 3 / 4, "low": 3 / 4, "high": 3 / 4, "rows": 4}
    assert metrics["arp"]["value"] == pytest.approx((15 / 4 + 10 / 4) / 2)
    # Shares over both seeds: a 2, b 3, c 1, d 1, e 1 of 8; histories 1/3, 1/6, 0, 1/6, 1/3.
    unfairness = [2 / 8 - 1 / 3, 3 / 8 - 1 / 6, 1 / 8, 1 / 8 - 1 / 6, 1 / 8 - 1 / 3]
    assert metrics["mgu@1"]["value"] == pytest.approx(sum(map(abs, unfairness)) / 5)
    # Only the first seed has wrong rows, one of two over-selected.
    assert metrics["semantic_over_selection"]["value"] == pytest.approx(1 / 2)
    # Counts 0, 0, 1, 1, 2 give 0.5; 0, 1, 1, 1, 1 give (-2 + 0 + 2 + 4) / (5 * 4) = 0.2; the mean is 0.35.
    assert metrics["gini"]["value"] == pytest.approx(0.35)
    assert metrics["coverage"]["value"] == pytest.approx((3 / 5 + 4 / 5) / 2)


def test_one_seed_averages_to_itself() -> None:
    examples, items, models = random_tables(8)
    judged = judge(examples, items, build_encoder("tfidf", items.column("title").to_pylist()), listed=True)
    once = collect("aligned", models["aligned"], judged)
    assert summarise({"aligned": average([once])}, judged, draws=100, seed=1) == summarise(
        {"aligned": once}, judged, draws=100, seed=1
    )


def test_seeds_with_other_components_are_refused() -> None:
    judged = judge(examples_table(), items_table(), build_encoder("tfidf", list(TITLES.values())), listed=False)
    with pytest.raises(RosepoError, match="same rows and components"):
        average([collect("sft", predictions_table(RANKED, t), judged) for t in (None, TEXTS)])
    with pytest.raises(RosepoError, match="no training seed"):
        average([])
