"""Cross-fitting by user: who is judged by which model, and so learned by the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray.seeds import derive


def fold_of(user_id: str, folds: int, seed: int) -> int:
    """The fold whose model judges this user."""
    return derive(seed, "oracle fold", user_id) % folds


def training_users(user_ids: Sequence[str], fold: int, folds: int, seed: int) -> np.ndarray:
    """Which users the model of `fold` learns from, bool [U]: with one fold all, else those that others judge."""
    if folds == 1:
        return np.ones(len(user_ids), bool)
    return np.array([fold_of(user, folds, seed) != fold for user in user_ids], dtype=bool)
