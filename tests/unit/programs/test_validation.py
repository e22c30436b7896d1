"""What a fit sees of itself on validation rows, against the same figures computed plainly."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.training import ValidationSettings
from rosepo_ray.policy import store
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.programs.validation import PolicyJudge, watch
from rosepo_ray.training.world import World

TITLES = ["Toy Story", "Toy", "GoldenEye", "Four Rooms", "Babe", "Babe: Pig in the City", "Amélie", "Twelve Monkeys"]
CATALOGUE = Catalogue([f"i{n}" for n in range(8)], TITLES, [n * n for n in range(8)])


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=320)
    return store.build(settings, PromptSettings(), TITLES, [1] * 8, seed=2)


def make_rows(policy: Policy, pairs: bool) -> list[dict[str, Any]]:
    rows = []
    for n in range(9):
        draw = random.Random(n)
        history, candidates = draw.sample(CATALOGUE.item_ids, 3), draw.sample(CATALOGUE.item_ids, 5)
        row = {"example_id": f"u{n}:3", "history": history, "candidates": candidates}
        if not pairs:
            rows.append(row | {"target": candidates[n % 5]})
            continue
        texts = [CATALOGUE.title_of(item) for item in draw.sample(candidates, 1 + n % 2)]
        row |= {"chosen": candidates[n % 5], "rejected_text": texts}
        # A reference beside which some margins are above 0 and some below.
        row |= {"ref_chosen_logp": -20.0 + n, "ref_rejected_logps": [-20.0 + draw.gauss(0, 3) for _ in texts]}
        rows.append(row)
    return rows


def plain(policy: Policy, rows: list[dict[str, Any]]) -> dict[str, float]:
    """One row after the other; the mean of each figure, the loss by tokens."""
    sums: dict[str, list[float]] = {}
    tokens = 0

    def add(**values: float) -> None:
        for name, value in values.items():
            sums.setdefault(name, []).append(value)

    for row in rows:
        target = row.get("chosen", row.get("target"))
        texts = [CATALOGUE.title_of(item) for item in row["candidates"]]
        history = CATALOGUE.requests.of(row["history"], None, [*texts, *row.get("rejected_text", [])])
        logps = score(policy, [history], 1, 10_000)[0].tolist()
        own = dict(zip(row["candidates"], logps, strict=False))
        order = sorted(own, key=lambda item: -own[item])
        place = order.index(target)
        popularity = dict(zip(CATALOGUE.item_ids, CATALOGUE.popularity, strict=True))
        add(loss=-own[target])
        tokens += len(policy.prompter.response_ids(CATALOGUE.title_of(target)))
        add(**{"hr@1": float(place == 0), "ndcg@10": 1 / math.log2(place + 2)})
        add(popularity_gap=popularity[order[0]] - popularity[target])
        written = generate(policy, [history], 1, 40)[0]
        add(texts=float(written.casefold() in {title.casefold() for title in TITLES}))
        if "rejected_text" in row:
            rejected = logps[len(texts) :]
            margins = [
                own[target] - row["ref_chosen_logp"] - (logp - reference)
                for logp, reference in zip(rejected, row["ref_rejected_logps"], strict=True)
            ]
            add(chosen_logp=own[target], rejected_logp=sum(rejected) / len(rejected))
            add(margin=sum(margins) / len(margins), pair_accuracy=sum(m > 0 for m in margins) / len(margins))
    return {name: sum(values) / (tokens if name == "loss" else len(rows)) for name, values in sums.items()}


@pytest.mark.parametrize("pairs", [False, True])
def test_the_figures_are_those_computed_plainly(policy: Policy, pairs: bool) -> None:
    rows = make_rows(policy, pairs)
    found = PolicyJudge(policy, CATALOGUE, rows, ScoringSettings(batch=4), World(), write=True)()
    wanted = plain(policy, rows)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    if pairs:
        assert 0 < found["pair_accuracy"] < 1


class Share(World):
    """One of several ranks whose sums are added by hand."""

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        SHARES.append(values)
        return dict(values)


SHARES: list[dict[str, float]] = []


def test_ranks_share_the_rows_and_know_the_same_figures(policy: Policy) -> None:
    rows = make_rows(policy, True)
    SHARES.clear()
    for rank in range(11):  # more ranks than rows: some have none
        judge = PolicyJudge(policy, CATALOGUE, rows, ScoringSettings(), Share(rank, 11), write=False)
        if judge.rows:
            judge()
        else:
            SHARES.append(judge._ranked())
    assert {tuple(sorted(share)) for share in SHARES} == {tuple(sorted(SHARES[0]))}
    total = {name: sum(share[name] for share in SHARES) for name in SHARES[0]}
    wanted = plain(policy, rows)
    assert total["rows"] == len(rows)
    assert total["margin"] / len(rows) == pytest.approx(wanted["margin"], abs=1e-4)
    assert total["loss"] / total["tokens"] == pytest.approx(wanted["loss"], abs=1e-4)


def test_no_looks_no_watch(policy: Policy) -> None:
    rows = make_rows(policy, False)
    assert watch(policy, CATALOGUE, rows, ValidationSettings(), ScoringSettings(), World()) is None
    made = watch(policy, CATALOGUE, rows, ValidationSettings(every=5, texts=0), ScoringSettings(), World())
    assert made is not None
    assert "texts" not in made.look(5)[0]
