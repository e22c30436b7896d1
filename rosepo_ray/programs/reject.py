"""Rejected samples: each example is scored once with the SFT policy, which gives the policy's own mistake and the
reference log-probabilities of chosen and rejected in the same pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.policy import pretrained
from rosepo_ray.policy.generation import sample
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.scoring import score
from rosepo_ray.rejection import Answers, Ask, Pick, RejectionRow, Strategy


class Rejector:
    """Gathers what the strategy asks about many rows, lets the policy answer, and lets the strategy pick."""

    def __init__(
        self, policy: Policy, strategy: Strategy, catalogue: Catalogue, k: int, seed: int, limits: ScoringSettings
    ) -> None:
        self.policy, self.strategy, self.catalogue = policy, strategy, catalogue
        self.k, self.seed, self.limits = k, seed, limits
        context = pretrained.context(causal_lm(policy.model).config)
        self.room = math.inf if context is None else context - policy.prompt.max_tokens
        self.longest = policy.prompter.longest_response(catalogue.titles)

    def pairs(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of `examples` with `excluded` (items that must not be drawn) -> rows of `pairs`. A row for which nothing
        is found has no rejected items."""
        framed = [
            RejectionRow(
                r["example_id"], r["user_id"], r["history"], r["target"], r["candidates"], frozenset(r["excluded"])
            )
            for r in rows
        ]
        asks = [self.strategy.ask(row, self.k, self.seed) for row in framed]
        texts = self._write(framed, asks)
        titles = [self._to_score(*each) for each in zip(framed, asks, texts, strict=True)]
        requests = [
            self.catalogue.requests.of(row.history, row.candidates, scored)
            for row, scored in zip(framed, titles, strict=True)
        ]
        logps = score(self.policy, requests, self.limits.batch, self.limits.tokens)
        out = []
        for row, frame, ask, written, scored, values in zip(rows, framed, asks, texts, titles, logps, strict=True):
            logp = dict(zip(scored, values.tolist(), strict=True))
            of_candidates = {item: logp[self._title(item)] for item in frame.candidates} if ask.scores else {}
            picks = self.strategy.pick(frame, ask, Answers(of_candidates, written), self.seed)
            out.append(self._pair(row, picks, logp))
        return out

    def _write(self, rows: Sequence[RejectionRow], asks: Sequence[Ask]) -> list[list[str]]:
        """The texts that each row asks for: equal ones once, those without tokens or room beside a prompt not at all.

        A text can have more tokens than were written: bytes that are no character become U+FFFD, which has three.
        """
        asking, prompter = [number for number, ask in enumerate(asks) if ask.texts], self.policy.prompter
        found: list[list[str]] = [[] for _ in rows]
        if not asking:
            return found
        requests = [
            self.catalogue.requests.of(rows[n].history, rows[n].candidates)
            for n in asking
            for _ in range(asks[n].texts)
        ]
        names = [f"{rows[n].example_id}\x1f{draw}" for n in asking for draw in range(asks[n].texts)]
        written = iter(
            sample(
                self.policy,
                requests,
                names,
                self.limits.batch,
                self.longest,
                seed=self.seed,
                temperature=asks[asking[0]].temperature,
                tokens=self.limits.tokens,
                cache_mib=self.limits.cache_mib,
            )
        )
        for n in asking:
            texts = [next(written) for _ in range(asks[n].texts)]
            found[n] = [text for text in dict.fromkeys(texts) if 0 < len(prompter.text_ids(text)) <= self.room]
        return found

    def _to_score(self, row: RejectionRow, ask: Ask, texts: Sequence[str]) -> list[str]:
        """The target's title, what is drawn already, and all that may still be picked; each text once."""
        drawn = [pick.text for pick in ask.drawn if pick is not None]
        candidates = self.catalogue.requests.titles(row.candidates) if ask.scores else []
        return list(dict.fromkeys([self._title(row.target), *drawn, *candidates, *self._as_items(texts)]))

    def _as_items(self, texts: Sequence[str]) -> list[str]:
        """Each text, and the title as the catalogue spells it where the text names an item."""
        return [spelled for text in texts for spelled in (text, *self.catalogue.spelled(text))]

    def _title(self, item: str) -> str:
        return self.catalogue.title_of(item)

    def _pair(self, row: dict[str, Any], picks: list[Pick], logp: dict[str, float]) -> dict[str, Any]:
        return {
            **{name: row[name] for name in ("example_id", "user_id", "split", "history", "candidates")},
            "chosen": row["target"],
            "rejected": [pick.item_id for pick in picks],
            "rejected_text": [pick.text for pick in picks],
            "strategy": [pick.strategy for pick in picks],
            "ref_chosen_logp": logp[self._title(row["target"])],
            "ref_rejected_logps": [logp[pick.text] for pick in picks],
        }
