"""Constrained generation: whatever is written is an item; greedy and beams against the same by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray import seeds
from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.policy import store
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.search.constrained import generate_items
from rosepo_ray.policy.search.ranking import top_k
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt
from tests import tiny_models

TITLES = [
    "Toy Story", "Toy", "GoldenEye", "Four Rooms", "Get Shorty", "Babe", "Babe: Pig in the City", "Amélie", "B",
    "Toy Story 2", "千と千尋", "Get Carter",
]  # fmt: skip


@pytest.fixture(scope="module", params=["llama lora", "qwen2 full", "qwen3 full", "gpt2 lora"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return make(tmp_path_factory.mktemp("base"), *request.param.split())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    return [make(tmp_path_factory.mktemp("base"), family, "full", seed=3) for family in ("llama", "gpt2")]


def make(folder: Path, family: str, how: str, seed: int = 0) -> Policy:
    base = tiny_models.save(folder, family, TITLES, seed)
    lora = LoraSettings(r=4, alpha=8) if how == "lora" else None
    chosen = PretrainedPolicy(type="pretrained", model=str(base), lora=lora)
    policy = store.build(chosen, PromptSettings(template="titles"), TITLES, [1] * len(TITLES), seed=1)
    tiny_models.stir_adapters(policy.model)
    return policy


def catalogue(policy: Policy, titles: list[str]) -> TitleTrie:
    return TitleTrie.build(policy.prompter, titles, [f"i{n}" for n in range(len(titles))])


def some_prompts(policy: Policy) -> list[EncodedPrompt]:
    return [policy.prompter.prompt_ids(Request(TITLES[n : n + m])) for n, m in ((0, 1), (3, 5), (8, 2), (1, 3), (5, 1))]


def greedy(policy: Policy, prompt: EncodedPrompt, titles: list[str]) -> str:
    """The likeliest next token among those with which a title goes on, one plain forward pass at a time."""
    written: list[int] = []
    spelled = [policy.prompter.response_ids(title) for title in titles]
    while written not in spelled:
        allowed = sorted({ids[len(written)] for ids in spelled if ids[: len(written)] == written})
        with torch.inference_mode():
            logits = policy.model(input_ids=torch.tensor([prompt.ids + written])).logits[0, -1]
        written.append(allowed[int(logits[allowed].argmax())])
    return titles[spelled.index(written)]


def test_greedy_is_greedy_among_titles(policy: Policy):
    prompts = some_prompts(policy)
    expected = [greedy(policy, prompt, TITLES) for prompt in prompts]
    for batch in (1, 3, 5):
        items = generate_items(policy, catalogue(policy, TITLES), prompts, list("abcde"), batch)
        assert [TITLES[item] for item in items] == expected


def test_beams_that_hold_all_prefixes_find_the_best_title(policy: Policy):
    """Then the beam search is exact in the sum of log-probabilities, with no preference for long or short titles."""
    trie, prompts, row_ids = catalogue(policy, TITLES), some_prompts(policy), list("abcde")
    items = generate_items(policy, trie, prompts, row_ids, batch=2, beams=len(TITLES))
    assert items.tolist() == [found.items[0] for found in top_k(policy, trie, prompts, 1, row_ids)]


def test_what_is_left_out_is_not_written(policy: Policy):
    """Greedy goes on among the other titles; of two items with one title the other is written."""
    titles = [*TITLES, "Toy Story"]
    trie, prompts, row_ids = catalogue(policy, titles), some_prompts(policy), list("abcde")
    twins = [n for n, title in enumerate(titles) if title == "Toy Story"]
    left_out = [[twins[0]], twins, [n for n in range(len(titles)) if n != twins[1]], [3, 4, 5], []]
    found = {}
    for beams in (1, len(titles)):
        items = generate_items(policy, trie, prompts, row_ids, 2, beams, left_out=left_out).tolist()
        assert not any(item in without for item, without in zip(items, left_out, strict=True))
        assert items[2] == twins[1]
        found[beams] = items
    for prompt, item, without in zip(prompts, found[1], left_out, strict=True):
        open_titles = [title for n, title in enumerate(titles) if n not in without]
        assert titles[item] == greedy(policy, prompt, list(dict.fromkeys(open_titles)))
    best = top_k(policy, trie, prompts, 1, row_ids, left_out=left_out)
    assert found[len(titles)] == [one.items[0] for one in best]


TITLE = st.text(st.sampled_from("ab é千"), min_size=1, max_size=4)


@settings(max_examples=25)
@given(
    titles=st.lists(TITLE, min_size=1, max_size=12),
    prompts=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=6).map(EncodedPrompt), min_size=1, max_size=3),
    beams=st.integers(1, 5),
    which=st.integers(0, 1),
)
def test_whatever_comes_out_is_an_item(models: list[Policy], titles, prompts, beams, which):
    policy = models[which]
    row_ids = [f"r{n}" for n in range(len(prompts))]
    items = generate_items(policy, catalogue(policy, titles), prompts, row_ids, batch=2, beams=beams)
    assert len(items) == len(prompts)
    spelled = [policy.prompter.response_ids(title) for title in titles]
    for item, row_id in zip(items, row_ids, strict=True):
        same = [n for n, ids in enumerate(spelled) if ids == spelled[item]]
        assert item == same[int(np.argmin(seeds.tie_break(row_id, [f"i{n}" for n in same])))]


def test_a_model_that_gives_no_numbers_is_told(tmp_path: Path):
    policy = make(tmp_path, "llama", "full")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(float("nan"))
    for beams in (1, 3):
        with pytest.raises(RosepoError, match="not a number"):
            generate_items(policy, catalogue(policy, TITLES), [EncodedPrompt([5, 6])], ["r"], 1, beams)
