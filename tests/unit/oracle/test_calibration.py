"""T, calibration error, pair accuracy and epsilon, against numbers derived by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle import calibration, smoothing

floats = st.floats(-5, 5, allow_nan=False)


def test_temperature_by_hand():
    # Three pairs with d = 1, one with d = -1. The likelihood's optimum makes sigmoid(1/T) the share that is right, 3/4,
    # so 1/T = logit(3/4) = ln 3.
    assert calibration.fit_temperature(np.array([1.0, 1.0, 1.0, -1.0])) == pytest.approx(1 / math.log(3), rel=1e-5)
    # Nine of ten right at d = 2: 2/T = ln 9.
    assert calibration.fit_temperature(np.array([2.0] * 9 + [-2.0])) == pytest.approx(2 / math.log(9), rel=1e-5)


def test_temperature_solves_the_first_order_condition():
    d = np.array([0.3, 2.0, -1.0, 0.7, -0.2, 1.5, -0.4, 0.9])
    t = calibration.fit_temperature(d)
    # d/dT of mean softplus(-d/T) is mean(d * sigmoid(-d/T)) / T^2.
    assert np.mean(d / (1 + np.exp(d / t))) == pytest.approx(0, abs=1e-6)


def test_temperature_at_its_bounds():
    sure = np.array([0.5, 1.0, 1.5])  # mean |d| = 1
    assert calibration.fit_temperature(sure) == pytest.approx(0.01, rel=1e-9)
    assert calibration.fit_temperature(-sure) == pytest.approx(100, rel=1e-9)
    assert calibration.fit_temperature(np.array([1.0, -1.0])) == pytest.approx(
        100, rel=1e-2
    )  # chance: flat at infinity
    assert calibration.fit_temperature(np.zeros(3)) == 1.0


@given(st.lists(floats, min_size=2, max_size=30).filter(lambda d: np.abs(d).max() > 0.1), st.floats(0.01, 100))
def test_temperature_scales_with_the_scores(d, factor):
    d = np.array(d)
    t = calibration.fit_temperature(d)
    scaled = calibration.fit_temperature(d * factor)

    def loss(x, temperature):
        return np.logaddexp(0, -x / temperature).mean()

    assert t > 0
    # Compared by the likelihood they reach, since it can be flat in T.
    assert loss(d * factor, scaled) == pytest.approx(loss(d, t), abs=1e-7)
    low, high = (bound * np.abs(d).mean() for bound in (calibration.SMALLEST, calibration.LARGEST))
    for neighbour in (max(low, t / 1.1), min(high, t * 1.1)):
        assert loss(d, t) <= loss(d, neighbour) + 1e-9


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_temperature_needs_finite_pairs(bad):
    with pytest.raises(RosepoError, match="calibration"):
        calibration.fit_temperature(np.array(bad))


def test_pair_accuracy_by_hand():
    # Two right, one wrong, one tie: (2 + 1/2) / 4.
    assert calibration.pair_accuracy(np.array([2.0, 0.1, -1.0, 0.0])) == 0.625


def test_calibration_error_by_hand():
    # Two bins of two. Confidences max(p, 1-p): 0.6 0.7 | 0.8 0.9; correct: 1 0 | 1 1.
    # |0.65 - 0.5| * 2/4 + |0.85 - 1.0| * 2/4 = 0.075 + 0.075.
    p = np.array([0.9, 0.4, 0.8, 0.7])
    correct = np.array([1.0, 1.0, 1.0, 0.0])
    assert calibration.calibration_error(p, correct, bins=2) == pytest.approx(0.15)


def test_calibration_error_of_unequal_bins_weighs_by_pairs():
    # Three pairs in two bins: {0.5, 0.6} and {0.9}: |0.55 - 1/2| * 2/3 + |0.9 - 1| * 1/3.
    p, correct = np.array([0.6, 0.9, 0.5]), np.array([1.0, 1.0, 0.0])
    assert calibration.calibration_error(p, correct, bins=2) == pytest.approx(0.05 * 2 / 3 + 0.1 / 3)


def test_calibration_error_with_ten_bins_and_fewer_pairs():
    # Each pair is a bin: mean of |0.9 - 1| and |0.7 - 0|.
    assert calibration.calibration_error(np.array([0.9, 0.3]), np.array([1.0, 0.0])) == pytest.approx(0.4)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.6, 0.75, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1),
    st.randoms(),
)
def test_calibration_error_does_not_depend_on_the_order(pairs, random):
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    one = calibration.calibration_error(*map(np.array, zip(*pairs, strict=True)))
    two = calibration.calibration_error(*map(np.array, zip(*shuffled, strict=True)))
    assert one == pytest.approx(two, abs=1e-12)
    assert 0 <= one <= 1


def test_a_calibrated_oracle_has_a_small_error_and_an_overconfident_one_a_large():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.02, 0.98, 20_000)
    prefers = rng.random(20_000) < p  # the log agrees with the oracle with probability p
    d = np.log(p / (1 - p))
    labelled = np.where(prefers, d, -d)  # orient each pair: chosen first
    fitted = calibration.fit_temperature(labelled)
    assert fitted == pytest.approx(1.0, abs=0.05)
    report = calibration.report(labelled, fitted)
    assert report["ece"] < 0.02
    assert report["pairs"] == 20_000
    assert calibration.report(labelled * 10, 1.0)["ece"] > 0.15


def test_calibration_error_refuses_what_is_no_probability():
    with pytest.raises(RosepoError, match="probabilities"):
        calibration.calibration_error(np.array([1.2]), np.array([1.0]))
    with pytest.raises(RosepoError, match="outcomes"):
        calibration.calibration_error(np.array([0.2, 0.3]), np.array([1.0]))


def test_epsilon_by_hand():
    # 1 - P = sigmoid(-d/T): d = T ln 3 gives 1/4, d = 0 gives 1/2, d = -T ln 3 gives 3/4, clipped to 1/2.
    t = 2.0
    d = np.array([t * math.log(3), 0.0, -t * math.log(3)])
    assert smoothing.epsilon(d, t, 0.5).tolist() == pytest.approx([0.25, 0.5, 0.5])
    assert smoothing.epsilon(d, t, 1.0).tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert smoothing.epsilon(d, t, 0.0).tolist() == [0, 0, 0]
    assert smoothing.epsilon(np.array([1e6, -1e6]), t, 1.0).tolist() == [0.0, 1.0]


def test_a_rejected_text_that_is_no_item_has_epsilon_zero():
    assert smoothing.clip(np.array([0.7, 0.3]), np.array([False, True]), 0.5).tolist() == [0.0, 0.3]


@pytest.mark.parametrize("disagreements", [[math.nan], [1.1], [-0.1]])
def test_clip_refuses_what_is_no_probability(disagreements):
    with pytest.raises(RosepoError, match="disagreement"):
        smoothing.clip(np.array(disagreements), np.array([True]), 0.5)


@given(st.lists(floats, min_size=1, max_size=10), st.floats(0.05, 10), st.floats(0, 1))
def test_epsilon_is_bounded_and_falls_with_the_difference(d, t, bound):
    d = np.sort(np.array(d))
    values = smoothing.epsilon(d, t, bound)
    assert (values >= 0).all()
    assert (values <= bound).all()
    assert (np.diff(values) <= 1e-12).all()
