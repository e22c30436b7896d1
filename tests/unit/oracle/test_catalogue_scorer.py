"""The oracles over a catalogue: the contract of all oracles, then what only one kind promises."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.folds import fold_of, training_users
from rosepo_ray.oracle.popularity import PopularityScorer
from rosepo_ray.oracle.sasrec import SasrecScorer
from rosepo_ray.oracle.sasrec_net import SasRec, Shape
from rosepo_ray.testing.oracle import OracleContract

ITEMS = ("a", "b", "c", "d", "never")
POPULARITY = np.array([7, 3, 1, 1, 0])


def popularity_oracle():
    return PopularityScorer(ITEMS, (POPULARITY,), 1.0, seed=3)


def sasrec_oracle(folds=1):
    shape = Shape(items=5, history=3, hidden=8, layers=1, heads=2, dropout=0.5)
    models = [SasRec(shape, seed) for seed in range(folds)]
    for model in models:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(10.0 if weight.dim() > 1 else 1.0)
    return SasrecScorer.build(models, ITEMS, [POPULARITY] * folds, seed=3)


class Contract(OracleContract):
    known, unknown = ITEMS[:4], ("never", "stranger")

    def test_the_version_names_what_was_counted(self):
        oracle, other = self.make(), np.array([8, 3, 1, 1, 0])
        recounted = dataclasses.replace(oracle, popularity=tuple(other for _ in oracle.popularity))
        assert recounted.version != oracle.version


class TestPopularity(Contract):
    def make(self):
        return popularity_oracle()

    def test_scores_by_hand(self):
        (scores,), _ = self.make().score(["u"], [[]], [["a", "b", "c", "never"]])
        # ln 8, ln 4, ln 2, and the mean over a, b, c, d: (3 + 2 + 1 + 1) / 4 * ln 2.
        ln2 = math.log(2)
        assert scores.tolist() == pytest.approx([3 * ln2, 2 * ln2, ln2, 1.75 * ln2])


class TestSasrec(Contract):
    def make(self):
        return sasrec_oracle()

    @torch.no_grad()
    def test_scores_equal_the_direct_computation(self):
        oracle = self.make()
        (scores,), _ = oracle.score(["u"], [["d", "a", "b", "c"]], [["c", "a"]])
        net = oracle.models[0]
        state = net.states(torch.tensor([[1, 2, 3]]))[0, -1]  # the last three of the history; items count from 1
        direct = [float(state @ net.item_embedding.weight[n]) for n in (3, 1)]
        assert scores.tolist() == pytest.approx(direct, abs=1e-5)
        assert abs(direct[0] - direct[1]) > 1e-2

    def test_the_order_of_the_history_matters(self):
        (one, two), _ = self.make().score(["u", "u"], [["a", "b"], ["b", "a"]], [["c"], ["c"]])
        assert abs(one[0] - two[0]) > 1e-4

    def test_a_history_of_strangers_tells_nothing(self):
        (scores,), (known,) = self.make().score(["u"], [["stranger", "never"]], [["a", "b"]])
        assert (scores.tolist(), known.tolist()) == ([0.0, 0.0], [False, False])

    def test_models_judge_without_dropout(self):
        oracle = self.make()
        question = (["u"], [["a", "b"]], [["c", "d"]])
        assert oracle.score(*question)[0][0].tolist() == oracle.score(*question)[0][0].tolist()
        assert not oracle.models[0].training

    def test_more_rows_than_fit_at_once(self, monkeypatch):
        monkeypatch.setattr("rosepo_ray.oracle.catalogue_scorer._ROWS_AT_ONCE", 3)
        monkeypatch.setattr("rosepo_ray.oracle.catalogue_scorer._SCORES_AT_ONCE", 5)
        self.test_a_score_does_not_depend_on_the_other_rows_or_items()

    def test_a_model_of_another_catalogue_is_refused(self):
        shape = Shape(items=4, history=3, hidden=8, layers=1, heads=2, dropout=0.5)
        with pytest.raises(RosepoError, match="same items"):
            SasrecScorer.build([SasRec(shape, 0)], ITEMS, [POPULARITY], seed=1)


class TestCrossFit(Contract):
    def make(self):
        return sasrec_oracle(folds=2)

    def test_a_user_is_judged_by_the_model_that_did_not_train_on_the_user(self):
        users = [f"user{n}" for n in range(200)]
        oracle = self.make()
        trains = [training_users(users, fold, 2, seed=3) for fold in range(2)]
        assert (trains[0] ^ trains[1]).all()  # each user trains exactly one model
        assert 70 <= trains[0].sum() <= 130
        scores, _ = oracle.score(users, [["a", "b"]] * 200, [["c"]] * 200)
        by_model = [
            SasrecScorer.build([model], ITEMS, [POPULARITY], seed=3).score(["u"], [["a", "b"]], [["c"]])[0][0][0]
            for model in oracle.models
        ]
        assert abs(by_model[0] - by_model[1]) > 1e-3
        for n, _user in enumerate(users):
            untrained = 0 if not trains[0][n] else 1
            assert scores[n][0] == pytest.approx(by_model[untrained], abs=1e-5)

    def test_an_item_is_known_by_what_the_judging_half_saw(self):
        oracle = dataclasses.replace(self.make(), popularity=(np.array([1, 1, 0, 1, 0]), np.array([1, 1, 1, 0, 0])))
        users = [f"user{n}" for n in range(20)]
        _, known = oracle.score(users, [["a"]] * 20, [["c", "d"]] * 20)
        for user, flags in zip(users, known, strict=True):
            assert flags.tolist() == ([False, True] if fold_of(user, 2, 3) == 0 else [True, False])


def test_one_fold_trains_on_everybody():
    assert training_users(["u", "v"], 0, 1, seed=1).all()


def test_an_oracle_that_saw_no_item_is_refused():
    with pytest.raises(RosepoError, match="above 0"):
        PopularityScorer(ITEMS, (np.zeros(5, int),), 1.0, seed=1)


def test_duplicate_items_are_refused():
    with pytest.raises(RosepoError, match="duplicates"):
        PopularityScorer(("a", "a"), (np.array([1, 2]),), 1.0, seed=1)
