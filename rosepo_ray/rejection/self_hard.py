"""`self_hard`: the policy's own mistake, for helpfulness."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from scipy.special import softmax

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.rejection import SelfHard
from rosepo_ray.errors import RosepoError
from rosepo_ray.rejection.base import RejectionRow, Strategy, wrong_candidates


class SelfHardStrategy(Strategy):
    """The wrong candidate that the SFT policy finds most likely (RosePO, arXiv:2410.12519).

    `argmax` takes the highest log pi_ref(y|x) (a tie goes to the smaller `seeds.tie_break`); `sample` draws from
    softmax(log pi_ref / temperature) over the wrong candidates. Further slots do the same without the earlier picks.
    """

    name = "self_hard"
    needs_scores = True

    def __init__(self, settings: SelfHard, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.settings = settings

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], candidate_logps: np.ndarray | None, seed: int
    ) -> str | None:
        if candidate_logps is None:
            raise RosepoError(f"row {row.example_id}: strategy self_hard needs the candidates' log-probabilities")
        pool = wrong_candidates(row, taken, self.catalogue)
        if not pool:
            return None
        by_item = dict(zip(row.candidates, candidate_logps, strict=True))
        logps = np.array([by_item[item] for item in pool])
        if self.settings.pick == "argmax":
            best = [pool[i] for i in np.flatnonzero(logps == logps.max())]
            return best[0] if len(best) == 1 else best[int(np.argmin(seeds.tie_break(row.example_id, best)))]
        chances = softmax(logps / self.settings.temperature)
        return pool[int(seeds.generator(seed, row.example_id, slot, self.name).choice(len(pool), p=chances))]
