"""Rejected samples: each example is scored once with the SFT policy, which gives the policy's own mistake and the
reference log-probabilities of chosen and rejected in the same pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.scoring import score
from rosepo_ray.rejection import Pick, RejectionRow, Strategy


class Rejector:
    """Proposes from catalogue pools, scores once, completes from the policy's scores."""

    def __init__(
        self,
        policy: Policy,
        strategy: Strategy,
        title_of: Mapping[str, str],
        k: int,
        seed: int,
        limits: ScoringSettings,
    ) -> None:
        self.policy, self.strategy, self.title_of = policy, strategy, title_of
        self.k, self.seed, self.limits = k, seed, limits

    def pairs(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of `examples` with `excluded` (items that must not be drawn) -> rows of `pairs`."""
        framed = [
            RejectionRow(
                r["example_id"], r["user_id"], r["history"], r["target"], r["candidates"], frozenset(r["excluded"])
            )
            for r in rows
        ]
        proposed = [self.strategy.propose(row, self.k, self.seed) for row in framed]
        pool = [list(row["candidates"]) if self.strategy.needs_scores else [row["target"]] for row in rows]
        for items, waiting in zip(pool, proposed, strict=True):
            items += [pick.item_id for pick in waiting if pick is not None and pick.item_id not in items]
        requests = [
            Request(self._titles(row["history"]), self._titles(items), self._titles(row["candidates"]))
            for row, items in zip(rows, pool, strict=True)
        ]
        logps = score(self.policy, requests, self.limits.batch, self.limits.tokens)
        out = []
        for row, frame, items, waiting, values in zip(rows, framed, pool, proposed, logps, strict=True):
            logp = dict(zip(items, values.tolist(), strict=True))
            picks = [pick for pick in waiting if pick is not None]  # those that needed no scores
            if len(picks) < len(waiting):
                of_candidates = np.array([logp[item] for item in row["candidates"]])
                picks = self.strategy.complete(frame, waiting, of_candidates, self.seed)
            out.append(self._pair(row, picks, logp))
        return out

    def _titles(self, items: Sequence[str]) -> list[str]:
        return [self.title_of[item] for item in items]

    def _pair(self, row: dict[str, Any], picks: list[Pick], logp: dict[str, float]) -> dict[str, Any]:
        rejected = [pick.item_id for pick in picks]
        return {
            **{name: row[name] for name in ("example_id", "user_id", "split", "history", "candidates")},
            "chosen": row["target"],
            "rejected": rejected,
            "rejected_text": self._titles(rejected),
            "strategy": [pick.strategy for pick in picks],
            "ref_chosen_logp": logp[row["target"]],
            "ref_rejected_logps": [logp[item] for item in rejected],
        }
