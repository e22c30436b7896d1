"""Questions and answers about pairs, their batches, and the client's patience; no cluster."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.oracle.judging import (
    as_request,
    batches,
    check_answer,
    check_request,
    differences,
    here,
    judge,
    scored,
)
from rosepo_ray.oracle.protocol import Judgement
from rosepo_ray.oracle.retries import pause
from tests.unit.oracle.test_catalogue_scorer import popularity_oracle, sasrec_oracle


def request(rows=3):
    rejected = [["b", "c"], [None], []]
    return as_request(["u", "v", "w"][:rows], [["a"]] * rows, ["a", "b", "c"][:rows], rejected[:rows])


def test_judge_by_hand():
    # Popularity 7, 3, 1: scores ln 8, ln 4, ln 2. With T = 2: d = ln 2 -> 1 - P = 1 / (1 + sqrt 2);
    # d = ln 4 -> 1 / (1 + 2).
    oracle = popularity_oracle().with_temperature(2.0)
    answer = judge(oracle, request())
    assert answer["disagreement"][0] == pytest.approx([1 / (1 + math.sqrt(2)), 1 / 3], abs=1e-6)
    assert answer["disagreement"][1:] == [[0.0], []]
    assert answer["known"] == [[True, True], [False], []]
    assert answer["scores"][0] == pytest.approx([math.log(8), math.log(4), math.log(2)], abs=1e-6)
    assert answer["scores"][1] == pytest.approx([math.log(4), math.nan], abs=1e-6, nan_ok=True)
    assert answer["version"] == oracle.version
    check_answer(request(), answer)


def test_differences_by_hand():
    values = differences(popularity_oracle(), request())
    assert values[0].tolist() == pytest.approx([math.log(2), math.log(4)], abs=1e-6)
    assert np.isnan(values[1]).tolist() == [True]
    assert scored(popularity_oracle(), request())[1][1].tolist() == [True, False]


def test_asked_in_this_process_it_answers_as_by_request():
    oracle, asked = sasrec_oracle(), request()
    found = here(oracle)(*[asked[name] for name in ("user_id", "history", "chosen", "rejected")])
    answer = judge(oracle, asked)
    for name in ("disagreement", "known", "scores"):
        assert str([row.tolist() for row in getattr(found, name)]) == str(answer[name])  # nan is nan as text
    assert found.versions == [oracle.version] * 3


def test_an_unknown_chosen_item_makes_the_pair_unknown():
    answer = judge(sasrec_oracle(), as_request(["u"], [["a"]], ["never"], [["a", "b"]]))
    assert answer["known"] == [[False, False]]


def test_a_null_does_not_move_its_neighbours():
    oracle = sasrec_oracle()
    plain = judge(oracle, as_request(["u"], [["a"]], ["b"], [["c", "d"]]))["disagreement"][0]
    mixed = judge(oracle, as_request(["u"], [["a"]], ["b"], [[None, "c", None, "d"]]))["disagreement"][0]
    assert mixed == pytest.approx([0, plain[0], 0, plain[1]], abs=1e-6)


def test_a_request_too_large_or_uneven_is_refused():
    check_request(request(), max_pairs=3)
    with pytest.raises(BadInput, match="3 pairs, one call takes 2"):
        check_request(request(), max_pairs=2)
    with pytest.raises(BadInput, match="unequal length"):
        check_request(request() | {"chosen": ["a"]})
    with pytest.raises(BadInput, match="lacks \\['history'\\]"):
        check_request({name: value for name, value in request().items() if name != "history"})


def wrong_answers():
    good = judge(popularity_oracle(), request())
    for path, value in [
        (("disagreement",), good["disagreement"][:2]),
        (("disagreement", 0), [0.5]),
        (("known", 0), [True]),
        (("disagreement", 0, 0), math.nan),
        (("disagreement", 0, 0), 1.5),
        (("scores", 0), [1.0]),
        (("scores", 0, 1), math.nan),
        (("scores", 1, 1), 0.5),
        (("version",), ""),
    ]:
        bad = copy.deepcopy(good)
        place = bad
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        yield bad


@pytest.mark.parametrize("bad", list(wrong_answers()))
def test_a_damaged_answer_is_refused(bad):
    with pytest.raises(RosepoError, match="oracle"):
        check_answer(request(), bad)


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 6), st.integers(5, 12))
def test_batches_are_whole_rows_in_order_within_both_bounds(sizes, rows, pairs):
    names = [f"u{n}" for n in range(len(sizes))]
    rejected = [[f"{n}.{k}" for k in range(size)] for n, size in enumerate(sizes)]
    whole = as_request(names, [["h", name] for name in names], names, rejected)
    parts = batches(whole, rows, pairs)
    for field in whole:
        assert [entry for part in parts for entry in part[field]] == whole[field]
    for part in parts:
        assert 1 <= len(part["user_id"]) <= rows
        check_request(part, pairs)


def test_a_single_row_above_the_bound_is_left_to_be_refused():
    (part,) = batches(as_request(["u"], [["a"]], ["a"], [["b"] * 9]), 4, 5)
    with pytest.raises(BadInput):
        check_request(part, 5)


def test_a_change_of_version_is_reported_row_by_row():
    mixed = Judgement([np.zeros(1)] * 3, [np.zeros(1, bool)] * 3, [np.zeros(2)] * 3, ["b", "a", "b"])
    assert mixed.version == "a+b"
    assert Judgement([], [], [], []).version == ""


def test_pauses_grow_and_their_jitter_is_fixed_by_the_caller():
    pauses = [pause(attempt, "app u1") for attempt in range(10)]
    assert pauses == [pause(attempt, "app u1") for attempt in range(10)]
    assert pauses != [pause(attempt, "app u2") for attempt in range(10)]
    for attempt, seconds in enumerate(pauses):
        plain = min(15.0, 0.5 * 2**attempt)
        assert 0.5 * plain <= seconds <= 1.5 * plain


@pytest.mark.slow  # a fresh interpreter takes seconds to import torch
def test_only_the_service_imports_ray():
    code = (
        "import sys, rosepo_ray.on_ray.oracle_client, rosepo_ray.oracle.store, rosepo_ray.programs.oracle_rows, "
        "rosepo_ray.oracle.calibration; sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
