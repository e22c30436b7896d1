"""Requests that grow out of each other in one row: equal to a row for each, and only where they do grow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.catalogue.requests import Request, Requests
from rosepo_ray.config.policy import PretrainedPolicy, PromptSettings, ScratchPolicy
from rosepo_ray.policy import batches, store
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from tests import tiny_models

TITLES = ["Toy Story", "Toy", "GoldenEye", "Four Rooms", "Babe", "Babe: Pig in the City", "Amélie", "Twelve Monkeys"]
REQUESTS = Requests({f"i{n}": title for n, title in enumerate(TITLES)})
IDS = list(REQUESTS.title_of)


@pytest.fixture(scope="module", params=["scratch", "llama", "qwen2", "qwen3", "gpt2"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    if request.param == "scratch":
        chosen: ScratchPolicy | PretrainedPolicy = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=320)
    else:
        base = tiny_models.save(tmp_path_factory.mktemp("base"), request.param, TITLES)
        chosen = PretrainedPolicy(model=str(base), lora=None)
    return store.build(chosen, PromptSettings(template="titles"), TITLES, [1] * len(TITLES), seed=1)


def window(seed: int, length: int) -> list[Request]:
    """A pair at every position of a sequence, with one to four rejected; some are no title."""
    draw = random.Random(seed)
    items = [draw.choice(IDS) for _ in range(length + 1)]
    found = []
    for n in range(1, length + 1):
        rejected = [REQUESTS.title_of[item] for item in draw.sample(IDS, 1 + draw.randrange(4))]
        rejected[-1] += " again" if draw.random() < 0.5 else ""
        found.append(REQUESTS.of(items[:n], None, [REQUESTS.title_of[items[n]], *rejected]))
    return found


def compare(policy: Policy, requests: Sequence[Request], rows: int) -> None:
    nested = batches.encode_nested(policy, requests)
    assert len(nested) == rows
    assert [n for _, numbers in nested for n in numbers] == list(range(len(requests)))
    module = PackedPolicy(policy.model)
    found = []
    for encoded in ([row for row, _ in nested], [batches.encode(policy, request) for request in requests]):
        logps = module(pack(encoded, policy.pad_id))
        policy.model.zero_grad()
        (logps * torch.cos(torch.arange(len(logps)))).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
        found.append((logps.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    assert float((found[0][1] - found[1][1]).norm() / found[1][1].norm()) < 1e-4


@settings(max_examples=5)
@given(seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3), length=st.integers(2, 7))
def test_a_window_is_one_row_and_equals_a_row_for_each_pair(policy: Policy, seeds: list[int], length: int) -> None:
    windows = [window(seed, length) for seed in seeds]
    nested = [row for each in windows for row, _ in batches.encode_nested(policy, each)]
    assert len(nested) == len(windows)
    compare(policy, windows[0], 1)
    # What the sequence holds is read once: the rejected titles alone need columns of their own.
    row = nested[0]
    whole = policy.prompter.prompt_ids(windows[0][-1])
    assert len(row.trunk) == len(whole) + len(policy.prompter.response_ids(windows[0][-1].responses[0])) - 1


def test_only_what_goes_on_shares_a_row(policy: Policy) -> None:
    one, other = window(1, 4), window(2, 3)
    compare(policy, [*one, *other], 2)
    compare(policy, [one[0], one[2]], 1)  # a position between them has no pair
    compare(policy, one[::-1], 4)
    compare(policy, [one[1], one[1]], 1)
    compare(policy, [other[0], *one], 2)
    compare(policy, [replace(request, history_ids=None) for request in one], 1)


def test_a_prompt_that_loses_its_oldest_titles_is_a_row_of_its_own(policy: Policy) -> None:
    requests = window(3, 7)
    lengths = [len(policy.prompter.prompt_ids(request)) for request in requests]
    short = replace(policy, prompt=PromptSettings(template="titles", max_tokens=max(16, lengths[4])))
    fitting = sum(len(policy.prompter.prompt_ids(request)) <= short.prompt.max_tokens for request in requests)
    assert fitting < len(requests)
    compare(short, requests, 1 + len(requests) - fitting)


@pytest.mark.parametrize("listed", [False, True])
def test_worded_prompts_share_what_they_begin_with(policy: Policy, listed: bool) -> None:
    """The question, and the candidates with it, is read before the responses of each position."""
    worded = replace(policy, prompt=PromptSettings(template="instruction", list_candidates=listed))
    requests = [replace(request, candidates=TITLES[:2]) for request in window(4, 4)]
    compare(worded, requests, 1)
    ((row, _),) = batches.encode_nested(worded, requests)
    apart = sum(len(worded.prompter.prompt_ids(request)) for request in requests)
    assert pack([row], 0).tokens < apart


@pytest.mark.parametrize("tokens", [60, 100_000])
def test_scores_of_windows_are_those_of_their_requests(policy: Policy, tokens: int) -> None:
    requests = [*window(5, 6), *window(6, 4), REQUESTS.of(["i0"]), *window(7, 2)]
    found = score(policy, requests, 3, tokens)
    assert [len(scores) for scores in found] == [len(request.responses) for request in requests]
    for request, scores in zip(requests, found, strict=True):
        alone = score(policy, [request], 1, 100_000)[0]
        assert scores.tolist() == pytest.approx(alone.tolist(), abs=1e-4)
