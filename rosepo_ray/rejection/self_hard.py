"""`self_hard`: the policy's own mistake, for helpfulness."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import softmax

from rosepo_ray import seeds
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.rejection.base import (
    Answers,
    Pool,
    RejectionRow,
    Strategy,
    StrategySettings,
    Want,
    scores_of,
    wrong_candidates,
)


@STRATEGIES.kind
class SelfHard(StrategySettings):
    """The policy's own mistake: the wrong candidate that it finds most likely (helpfulness)."""

    pool: ClassVar[Pool] = "candidates"
    type: Literal["self_hard"] = "self_hard"
    temperature: float | None = Field(None, gt=0)
    """Draw from softmax(log-probability / temperature); null takes the most likely one."""

    def build(self, catalogue: Catalogue) -> Strategy:
        return SelfHardStrategy(self, catalogue)


class SelfHardStrategy(Strategy):
    """The wrong candidate that the SFT policy finds most likely (RosePO, arXiv:2410.12519).

    Without a temperature the highest log pi_ref(y|x) (a tie goes to the smaller `seeds.tie_break`); else drawn from
    softmax(log pi_ref / temperature) over the wrong candidates. Further slots do the same without the earlier picks.
    """

    name = "self_hard"
    wants: ClassVar[Want] = "scores"

    def __init__(self, settings: SelfHard, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.settings = settings

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str, str] | None:
        pool = wrong_candidates(row, taken, self.catalogue)
        if not pool:
            return None
        item = self._of(row, slot, pool, np.array(scores_of(row, pool, answers)), seed)
        return item, self.catalogue.title_of(item)

    def _of(self, row: RejectionRow, slot: int, pool: list[str], logps: np.ndarray, seed: int) -> str:
        if self.settings.temperature is None:
            best = [pool[i] for i in np.flatnonzero(logps == logps.max())]
            return best[0] if len(best) == 1 else best[int(np.argmin(seeds.tie_break(row.example_id, best)))]
        chances = softmax(logps / self.settings.temperature)
        return pool[int(seeds.generator(seed, row.example_id, slot, self.name).choice(len(pool), p=chances))]
