"""Temperature and calibration of P(chosen > rejected) = sigmoid(d / T), where d = score(chosen) - score(rejected)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rosepo_ray.errors import RosepoError

SMALLEST, LARGEST = 1e-2, 1e2
"""T stays between these multiples of the mean |d|."""


def fit_temperature(differences: np.ndarray) -> float:
    """T > 0 that minimises mean softplus(-d / T), the negative log-likelihood of the pairs (Platt scaling without an
    offset; Guo et al. 2017, arXiv:1706.04599).

    The likelihood has one optimum in log T. Two cases have none inside: all d > 0 wants T = 0 (certainty), a mean d of
    0 or less (an oracle no better than chance) wants T = infinity (P = 1/2). T then is the bound, SMALLEST or LARGEST
    times the mean |d|: at d as small as a tenth of that mean P is 0.99995, or at the mean within 0.003 of 1/2. Only
    d = 0 everywhere says nothing about T: 1. Raises RosepoError without pairs or for a d that is not finite.
    """
    d = _checked(differences)
    scale = float(np.abs(d).mean())
    if scale == 0:
        return 1.0
    low, high = np.log(SMALLEST), np.log(LARGEST)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, -d / (scale * np.exp(log_t))).mean())

    inner = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).x)
    # The search stops just inside its interval, so the bounds themselves are compared too.
    best = min((low, inner, high), key=loss)
    return scale * float(np.exp(best))


def pair_accuracy(differences: np.ndarray) -> float:
    """Share of pairs that the oracle orders as the log does; a tie counts one half."""
    return float(ordered(_checked(differences)).mean())


def ordered(differences: np.ndarray) -> np.ndarray:
    """1 where d > 0, 0 where d < 0, one half for a tie."""
    return (np.sign(np.asarray(differences, dtype=np.float64)) + 1) / 2


def calibration_error(p: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over `bins` bins of equal count (Naeini et al. 2015; Nguyen and O'Connor 2015).

    `p` [N] is P(chosen > rejected), `correct` [N] whether the oracle ordered the pair as the log did (:func:`ordered`).
    Confidence is max(p, 1 - p); the error is the sum over bins of (share of pairs) x |mean confidence - mean correct|.
    Pairs of equal confidence share their mean `correct`, so the result does not depend on the order of the rows. With
    fewer pairs than bins each pair is a bin.
    """
    p = _checked(p)
    if p.min() < 0 or p.max() > 1 or len(correct) != len(p):
        raise RosepoError(f"{len(p)} probabilities from {p.min()} to {p.max()}, and {len(correct)} outcomes")
    values, group = np.unique(np.maximum(p, 1 - p), return_inverse=True)
    counts = np.bincount(group)
    shared = np.bincount(group, weights=np.asarray(correct, dtype=np.float64)) / counts
    confidence, outcome = np.repeat(values, counts), np.repeat(shared, counts)
    pieces = np.array_split(np.arange(len(p)), min(bins, len(p)))
    return float(sum(abs(confidence[i].mean() - outcome[i].mean()) * len(i) for i in pieces) / len(p))


def report(differences: np.ndarray, temperature: float) -> dict[str, float | int]:
    """What is logged about an oracle on validation pairs: temperature, ece, pair_accuracy, pairs."""
    d = _checked(differences)
    return {
        "temperature": temperature,
        "ece": calibration_error(expit(d / temperature), ordered(d)),
        "pair_accuracy": pair_accuracy(d),
        "pairs": len(d),
    }


def _checked(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).ravel()
    if len(array) == 0:
        raise RosepoError("calibration needs pairs with a known chosen and rejected item, and none was given")
    if not np.isfinite(array).all():
        raise RosepoError(
            f"{int((~np.isfinite(array)).sum())} of {len(array)} values given to calibration are not finite"
        )
    return array
