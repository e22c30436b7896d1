"""Semantic over-selection: does a wrong answer go to the title that reads most like the history?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_ray.catalogue.encoders import Vectors, nearest


def over_selection_credit(
    wrong_candidates: Sequence[str], history_vecs: Vectors, candidate_vecs: Vectors
) -> dict[str, float]:
    """Credit per wrong candidate: 1 for the one nearest to the history, 0 for the others (those are left out).

    Nearness is `rejection.text.nearest` (largest cosine similarity to a title of the history). Where t candidates
    are equally near each has 1/t: the mean over random tie-breaks. The credits sum to 1, so a wrong answer that
    ignores the text earns 1 / len(wrong_candidates) on average.

    Args:
        wrong_candidates: ids of the candidates without the target [W].
        history_vecs: encoded titles of the history [history, features].
        candidate_vecs: encoded titles of `wrong_candidates` [W, features].
    """
    nearness = nearest(history_vecs, candidate_vecs)
    # Two products of the same vectors may differ in the last bit.
    tied = np.flatnonzero(nearness >= nearness.max() - 1e-6)
    return {wrong_candidates[int(i)]: 1.0 / len(tied) for i in tied}
