"""What a fit of the policy sees of itself on validation rows: how it ranks and writes, and in alignment what becomes of
chosen and rejected titles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.catalogue import ranks
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.training import ValidationSettings
from rosepo_ray.data.choice import choose
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.seeds import derive
from rosepo_ray.training.watch import Watch
from rosepo_ray.training.world import World


def watch(
    policy: Policy,
    catalogue: Catalogue,
    rows: Sequence[Mapping[str, Any]],
    settings: ValidationSettings,
    limits: ScoringSettings,
    world: World,
    *,
    from_start: bool = False,
) -> Watch | None:
    """The watch over a fit of `policy`; None where the settings want no looks."""
    if settings.every is None:
        return None
    judge = PolicyJudge(policy, catalogue, rows, limits, world, write=settings.texts > 0)
    return Watch(settings, judge, from_start=from_start)


def examples_to_look_at(examples: str | pa.Table, settings: ValidationSettings, data_seed: int) -> list[dict[str, Any]]:
    """Rows of `examples` (the data stage's folder, or the table) for the looks of a fit; none where it takes none."""
    if settings.every is None:
        return []
    choice = choose(examples, {"validation": settings.examples}, data_seed, "looks")
    chosen = choice.of(examples) if isinstance(examples, pa.Table) else choice.all_rows(examples)
    return list(chosen.to_pylist())


def pairs_to_look_at(pairs: Sequence[dict[str, Any]], settings: ValidationSettings) -> list[dict[str, Any]]:
    """Those of the validation pairs with the smallest hashes."""
    return sorted(pairs, key=lambda row: derive(0, "looks", row["example_id"]))[: settings.examples]


Sums = dict[str, float]
"""Of the rows of one rank, `rows` and `tokens` among them."""


class PolicyJudge:
    """Judges the policy as it is on the same rows every time, each rank its share of them.

    The figures: `loss` (mean over the targets' tokens), `hr@1` and `ndcg@10` over the candidates, `popularity_gap`
    (interactions of the first-ranked item less the target's, mean), `texts` (share of freely written texts that are the
    title of an item); of rows with rejected texts, which are pairs, also `chosen_logp`, `rejected_logp`, and where they
    bring a reference `margin` and `pair_accuracy`, as in training.
    """

    def __init__(
        self,
        policy: Policy,
        catalogue: Catalogue,
        rows: Sequence[Mapping[str, Any]],
        limits: ScoringSettings,
        world: World,
        *,
        write: bool,
    ) -> None:
        """`rows` of `examples`, or of `pairs`; all ranks are given the same. `write` has texts written, too."""
        self.policy, self.catalogue, self.limits, self.world, self.write = policy, catalogue, limits, world, write
        self.pairs = bool(rows) and "rejected_text" in rows[0]
        self.rows = rows[world.rank :: world.size]
        self.longest = policy.prompter.longest_response(catalogue.titles)

    def __call__(self) -> dict[str, float]:
        sums = self._ranked()
        if self.write:
            sums["texts"] = self._texts()
        total = self.world.sum(sums)
        rows, tokens = total.pop("rows"), total.pop("tokens")
        return {name: value / (tokens if name == "loss" else rows) for name, value in total.items()}

    def _ranked(self) -> Sums:
        requests = [
            self.catalogue.requests.of_row(
                row, [*self.catalogue.requests.titles(row["candidates"]), *row.get("rejected_text", ())]
            )
            for row in self.rows
        ]
        found = score(self.policy, requests, self.limits.batch, self.limits.tokens)
        sums: Sums = dict.fromkeys(self._names(), 0.0)
        for row, logps in zip(self.rows, found, strict=True):
            candidates, target = row["candidates"], row.get("chosen", row.get("target"))
            place = candidates.index(target)
            best = ranks.top(row["example_id"], candidates, logps[: len(candidates)], len(candidates))
            rank = int(np.flatnonzero(best == place)[0])
            sums["rows"] += 1
            sums["tokens"] += len(self.policy.prompter.response_ids(self.catalogue.title_of(target)))
            sums["loss"] -= float(logps[place])
            sums["hr@1"] += rank == 0
            sums["ndcg@10"] += 1 / math.log2(rank + 2) if rank < 10 else 0.0
            sums["popularity_gap"] += self._popularity(candidates[int(best[0])]) - self._popularity(target)
            if self.pairs:
                self._add_pair(sums, row, float(logps[place]), logps[len(candidates) :])
        return sums

    def _names(self) -> list[str]:
        """The same on every rank, whatever rows it has."""
        plain = ["rows", "tokens", "loss", "hr@1", "ndcg@10", "popularity_gap"]
        pair = ["chosen_logp", "rejected_logp", "margin", "pair_accuracy"]
        return plain + (pair if self.pairs else [])

    def _add_pair(self, sums: Sums, row: Mapping[str, Any], chosen: float, rejected: np.ndarray) -> None:
        margins = chosen - row["ref_chosen_logp"] - (rejected - np.array(row["ref_rejected_logps"]))
        sums["chosen_logp"] += chosen
        sums["rejected_logp"] += float(rejected.mean())
        sums["margin"] += float(margins.mean())
        sums["pair_accuracy"] += float((margins > 0).mean())

    def _popularity(self, item: str) -> float:
        return self.catalogue.popularity[self.catalogue.index[item]]

    def _texts(self) -> float:
        requests = [self.catalogue.requests.of_row(row) for row in self.rows]
        texts = generate(
            self.policy,
            requests,
            self.limits.batch,
            self.longest,
            tokens=self.limits.tokens,
            cache_mib=self.limits.cache_mib,
        )
        return float(sum(bool(self.catalogue.bearers(text)) for text in texts))
