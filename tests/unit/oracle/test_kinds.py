"""What the kinds answer about pairs, and what they refuse before a run begins."""

import math
from pathlib import Path

import numpy as np
import pytest

from rosepo_ray.config.kinds import ORACLES, type_of
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.losses import Conservative, Robust
from rosepo_ray.losses.objective import ObjectiveSettings
from rosepo_ray.oracle import Constant, Making, Popularity, Replay, Sasrec, answers, judging
from rosepo_ray.oracle.answers import Answer
from rosepo_ray.oracle.protocol import Trained
from rosepo_ray.run.sources import build

PAIRS = [
    {"example_id": "u:1", "user_id": "u", "history": ["a"], "chosen": "b", "rejected": ["a", None]},
    {"example_id": "v:1", "user_id": "v", "history": ["b"], "chosen": "a", "rejected": ["c"]},
]
NEVER = lambda *_: pytest.fail("there is nothing to ask")  # noqa: E731


class NeedsScores(ObjectiveSettings):
    needs = frozenset({"oracle_scores"})
    type: str = "tests:NeedsScores"


def making(train=None):
    return Making(("a", "b", "c"), np.array([7, 3, 1]), 5, 1, train)


def test_every_kind_says_what_the_rest_must_know():
    said = {type_of(kind): (kind.scores, kind.served) for kind in ORACLES}
    assert said == {
        "constant": (False, False),
        "http": (True, False),
        "popularity": (True, True),
        "replay": (False, False),
        "sasrec": (True, True),
    }


def test_a_constant_is_the_same_for_every_pair_and_asks_nobody():
    found = Constant(epsilon=0.25).epsilon_of(PAIRS, NEVER)
    assert found == {
        "u:1": Answer(["a", None], [0.25, 0.25], "constant:0.25"),
        "v:1": Answer(["c"], [0.25], "constant:0.25"),
    }


def test_an_oracle_that_scores_gives_clipped_doubt_and_its_scores():
    # Popularity 7, 3, 1 and T = 1: scores ln 8, ln 4, ln 2. 1 - P of (b, a) is 8 / 12, of (a, c) 2 / 10.
    oracle = Popularity().prepare(making())
    found = Popularity(epsilon_max=0.5).epsilon_of(PAIRS, judging.here(oracle))
    assert found["u:1"].epsilon == [0.5, 0.0]
    assert found["v:1"].epsilon == pytest.approx([0.2], abs=1e-6)
    assert found["v:1"].scores == pytest.approx([math.log(8), math.log(2)], abs=1e-6)
    assert found["u:1"].scores == pytest.approx([math.log(4), math.log(8), math.nan], abs=1e-6, nan_ok=True)
    assert {answer.oracle_version for answer in found.values()} == {oracle.version}
    with pytest.raises(RosepoError, match="must be asked"):
        Popularity().epsilon_of(PAIRS, None)


def test_a_replay_gives_what_was_stored_the_scores_too(tmp_path: Path):
    given = {
        "u:1": Answer(["a", None], [0.5, 0.0], "v", [1.0, 2.0, -1.0]),
        "v:1": Answer(["c"], [0.25], "v", [0.0, 1.0]),
    }
    answers.store(str(tmp_path), given)
    answers.gather(str(tmp_path), list(given))
    replay = Replay(type="replay", folder=str(tmp_path))
    assert replay.epsilon_of(PAIRS, NEVER) == given
    replay.refuse_hopeless_run(NeedsScores())
    with pytest.raises(RosepoError, match="holds no smoothing for w:1 and 0 more"):
        replay.epsilon_of([*PAIRS, {"example_id": "w:1"}], None)
    with pytest.raises(RosepoError, match="finds no smoothing table"):
        Replay(type="replay", folder=str(tmp_path / "elsewhere")).epsilon_of(PAIRS, None)


def test_a_replay_without_what_the_objective_needs_is_refused(tmp_path: Path):
    answers.store(str(tmp_path), {"u:1": Answer(["a"], [0.45], "v")})
    answers.gather(str(tmp_path), ["u:1"])
    replay = Replay(type="replay", folder=str(tmp_path))
    replay.refuse_hopeless_run(Conservative())
    with pytest.raises(BadInput, match=r"a smoothing factor of 0\.45, more than the objective robust"):
        replay.refuse_hopeless_run(Robust())
    with pytest.raises(BadInput, match="without the oracle's scores"):
        replay.refuse_hopeless_run(NeedsScores())


def test_sasrec_trains_a_module_for_each_fold_on_other_users():
    asked = []

    def train(name, module, users, fit, steps):
        asked.append((name, users([f"u{n}" for n in range(50)]), fit, steps))
        return Trained(module(), np.array([7, 3, 1]))

    settings = Sasrec(hidden=8, heads=2, layers=1, folds=2, steps=3)
    oracle = settings.prepare(making(train))
    assert [(name, fit, steps) for name, _, fit, steps in asked] == [("fold0", settings, 3), ("fold1", settings, 3)]
    assert (asked[0][1] ^ asked[1][1]).all()
    assert (oracle.shape.items, oracle.shape.history, oracle.shape.hidden) == (3, 5, 8)
    one, two = (model.item_embedding.weight for model in oracle.models)
    assert not one.equal(two)


def test_an_objective_that_needs_scores_is_refused_an_oracle_without_any():
    objective = {"align": {"objective": {"type": f"{__name__}:NeedsScores"}}}
    build({"oracle": {"type": "popularity"}}, objective)
    with pytest.raises(BadInput, match=r"needs oracle_scores, which oracle\.type constant does not give"):
        build({"oracle": {"type": "constant"}}, objective)


def test_rows_per_request_are_no_rows_of_a_step():
    """Four workers share the rows of a training step; an oracle that is not trained has none."""
    http = {"oracle": {"type": "http", "url": "http://ranker/", "batch": 2}, "cluster": {"workers": 4}}
    assert build(http).oracle.batch == 2
    with pytest.raises(BadInput, match=r"oracle\.batch"):
        build({"oracle": {"batch": 2}, "cluster": {"workers": 4}})
