"""The personal smoothing factor: how far the oracle doubts that the chosen item is preferred (DESIGN's epsilon)."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rosepo_ray.errors import RosepoError


def disagreement(differences: np.ndarray, temperature: float) -> np.ndarray:
    """1 - P = sigmoid(-d / T) for d = score(chosen) - score(rejected), float64, any shape."""
    return np.asarray(expit(-np.asarray(differences, dtype=np.float64) / temperature))


def clip(disagreements: np.ndarray, is_item: np.ndarray, epsilon_max: float) -> np.ndarray:
    """epsilon = clip(1 - P, 0, epsilon_max); 0 where the rejected text is no item (`is_item` False)."""
    values = np.asarray(disagreements, dtype=np.float64)
    if not 0 <= epsilon_max <= 1:
        raise RosepoError(f"epsilon_max {epsilon_max} is outside [0, 1]")
    if not ((values >= 0) & (values <= 1)).all():
        raise RosepoError("a disagreement 1 - P is outside [0, 1] or not a number")
    return np.where(is_item, np.minimum(values, epsilon_max), 0.0)


def epsilon(differences: np.ndarray, temperature: float, epsilon_max: float) -> np.ndarray:
    """epsilon of pairs whose rejected text is an item, from the differences of scores."""
    d = np.asarray(differences, dtype=np.float64)
    return clip(disagreement(d, temperature), np.ones(d.shape, bool), epsilon_max)
