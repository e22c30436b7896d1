"""What one policy answers: it ranks candidates and the whole catalogue, and writes a title freely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rosepo_ray.catalogue.requests import Request, Requests
from rosepo_ray.catalogue.title_index import TitleIndex
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.evaluation.controls import prediction
from rosepo_ray.evaluation.whole_catalogue import TOP
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.policy.search.constrained import generate_items
from rosepo_ray.policy.search.ranking import top_k
from rosepo_ray.policy.search.title_trie import TitleTrie


class Evaluator:
    """One policy over one catalogue."""

    def __init__(
        self,
        policy: Policy,
        item_ids: Sequence[str],
        titles: Sequence[str],
        evaluation: EvaluationSettings,
        limits: ScoringSettings,
    ) -> None:
        self.policy, self.item_ids, self.evaluation, self.limits = policy, item_ids, evaluation, limits
        self.requests = Requests(dict(zip(item_ids, titles, strict=True)))
        self.place_of = {item: place for place, item in enumerate(item_ids)}
        self.titles = TitleIndex(self.requests.title_of)
        self.trie = TitleTrie.build(policy.prompter, list(titles), list(item_ids))

    def predictions(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of `examples` with `left_out` -> rows of `predictions`.

        `left_out` names items that a ranking of the whole catalogue leaves out; null where it is not ranked.
        """
        chosen, limits = self.evaluation, self.limits
        requests = [self.requests.of_row(row, self.requests.titles(row["candidates"])) for row in rows]
        logps = score(self.policy, requests, limits.batch, limits.tokens)
        out = [prediction(row, values) for row, values in zip(rows, logps, strict=True)]
        if chosen.generate:
            texts = generate(
                self.policy,
                requests,
                limits.batch,
                self.trie.longest,
                tokens=limits.tokens,
                cache_mib=limits.cache_mib,
            )
            for answer, text in zip(out, texts, strict=True):
                answer |= {"generated": text, "outcome": self.titles.outcome(text)[0]}
        ranked = [number for number, row in enumerate(rows) if row["left_out"] is not None]
        if ranked:
            found = self._rank_catalogue([rows[n] for n in ranked], [requests[n] for n in ranked])
            for number, answer in zip(ranked, found, strict=True):
                out[number] |= answer
        return out

    def _rank_catalogue(self, rows: list[dict[str, Any]], requests: list[Request]) -> list[dict[str, Any]]:
        limits = self.limits
        row_ids = [row["example_id"] for row in rows]
        prompts = [self.policy.prompter.prompt_ids(request) for request in requests]
        how: dict[str, Any] = {
            "tokens": limits.tokens,
            "cache_mib": limits.cache_mib,
            "left_out": [[self.place_of[item] for item in row["left_out"]] for row in rows],
        }
        best = top_k(self.policy, self.trie, prompts, TOP, row_ids, batch=limits.batch, **how)
        out: list[dict[str, Any]] = [
            {"top": [self.item_ids[item] for item in found.items], "top_scores": found.scores.tolist()}
            for found in best
        ]
        if self.evaluation.beams:
            beams = self.evaluation.beams
            written = generate_items(self.policy, self.trie, prompts, row_ids, limits.batch, beams, **how)
            for answer, item in zip(out, written, strict=True):
                answer["written_item"] = self.item_ids[item]
        return out
