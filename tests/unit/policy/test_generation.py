"""Sampled text: fixed by (seed, name) alone, and drawn from the policy's own distribution."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.policy import store
from rosepo_ray.policy.generation import generate, sample
from rosepo_ray.policy.model import Policy

TITLES = ["Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "Seven (Se7en)"]
REQUESTS = [Request(TITLES[:n]) for n in (1, 5, 3, 2)]
NAMES = ["u1:4", "u2:4", "u3:9", "u4:2"]


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=300)
    return store.build(settings, PromptSettings(), TITLES, [9, 8, 7, 6, 5, 4, 3, 2], seed=1)


def test_a_sample_is_the_same_in_any_batch_and_order(policy: Policy) -> None:
    together = sample(policy, REQUESTS, NAMES, 4, 6, seed=1, temperature=0.1)
    assert together == sample(policy, REQUESTS, NAMES, 1, 6, seed=1, temperature=0.1)
    backwards = sample(policy, REQUESTS[::-1], NAMES[::-1], 3, 6, seed=1, temperature=0.1)
    assert together == backwards[::-1]
    assert len(set(together)) > 1


def test_the_name_and_the_seed_decide(policy: Policy) -> None:
    first, again, other = sample(policy, REQUESTS[:1] * 3, ["a", "a", "b"], 3, 6, seed=1, temperature=0.1)
    assert first == again != other
    assert sample(policy, REQUESTS[:1], ["a"], 3, 6, seed=2, temperature=0.1) != [first]


def test_hardly_any_temperature_is_greedy(policy: Policy) -> None:
    assert sample(policy, REQUESTS, NAMES, 4, 6, seed=1, temperature=1e-5) == generate(policy, REQUESTS, 4, 6)


@pytest.mark.parametrize("temperature", [0.1, 0.3])
def test_first_tokens_come_as_often_as_the_softmax_says(policy: Policy, temperature: float) -> None:
    """By what they spell: several bytes that are no text of their own spell the same."""
    draws, prompter = 4000, policy.prompter
    with torch.inference_mode():
        ids = torch.tensor([prompter.prompt_ids(REQUESTS[0]).ids])
        chances = (policy.model(input_ids=ids).logits[0, -1].double() / temperature).softmax(-1)
    expected: dict[str, float] = defaultdict(float)
    for token, chance in enumerate(chances.tolist()):
        expected["" if token == prompter.end_id else prompter.written([token])] += chance
    names = [f"row {n}" for n in range(draws)]
    counts = Counter(
        sample(policy, REQUESTS[:1] * draws, names, draws, 1, seed=1, temperature=temperature, tokens=10**6)
    )
    likely = [text for text, chance in expected.items() if chance > 0.004]
    assert len(likely) > 5
    for text in likely:
        chance = expected[text]
        assert abs(counts[text] / draws - chance) < 4 * np.sqrt(chance * (1 - chance) / draws), repr(text)
