"""Prompts with vectors of items among their tokens, against plain forward passes over `inputs_embeds`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig

from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.policy import pretrained, store
from rosepo_ray.policy.engine import module
from rosepo_ray.policy.engine.layout import PackedBatch
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.generation import write
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.search.constrained import generate_items
from rosepo_ray.policy.search.ranking import score_all, top_k
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt, item_places
from tests import tiny_models
from tests.rows import chain, pack

END = 1
TITLES = ["Toy Story", "Toy", "GoldenEye", "Four Rooms", "Babe", "Babe: Pig in the City", "Amélie", "Twelve Monkeys"]
# An item twice, items side by side, first, last and alone; and a prompt of text between them.
PROMPTS = [
    EncodedPrompt([5, 0, 6, 0, 0], [(1, 3), (3, 2), (4, 0)]),
    EncodedPrompt([8, 9]),
    EncodedPrompt([0], [(0, 3)]),
]
ANSWERS = [[[7, 9, END], [7, END], [4, 5, 6, END]], [[3, END]], [[9, END], [END]]]


def item_vectors() -> nn.Embedding:
    torch.manual_seed(5)
    return nn.Embedding(4, 32)


@pytest.fixture(scope="module", params=["llama", "llama lora", "qwen3", "gpt2", "mixtral"])
def model(request: pytest.FixtureRequest) -> Any:
    family, *lora = request.param.split()
    torch.manual_seed(3)
    sizes = {**tiny_models._SIZES, "vocab_size": tiny_models.VOCABULARY}
    own = MixtralConfig(**sizes, num_local_experts=2, attn_implementation="sdpa")
    built: Any = AutoModelForCausalLM.from_config(own if family == "mixtral" else tiny_models.config(family))
    assert (module.family_of(built.base_model) is None) == (family == "mixtral")
    pretrained.remove_dropout(built)
    if lora:
        built = pretrained.add_lora(built, LoraSettings(r=4, alpha=8), seed=1)
        tiny_models.stir_adapters(built)
    return built.train()


def embedded(model: Any, vectors: nn.Embedding, prompt: EncodedPrompt, after: Sequence[int]) -> torch.Tensor:
    """[1, L, H], one column after the other."""
    items = dict(prompt.items)
    tokens = causal_lm(model).get_input_embeddings().weight
    columns = [vectors.weight[items[n]] if n in items else tokens[token] for n, token in enumerate(prompt.ids)]
    return torch.stack([*columns, *(tokens[token] for token in after)])[None]


def plain(model: Any, vectors: nn.Embedding, prompt: EncodedPrompt, seen: list[int], answer: list[int]) -> torch.Tensor:
    """log pi(answer | prompt, seen)."""
    x = embedded(model, vectors, prompt, [*seen, *answer])
    logps = model(inputs_embeds=x).logits[0].log_softmax(-1)
    first = len(prompt) + len(seen) - 1
    return logps[torch.arange(first, first + len(answer)), torch.tensor(answer)].sum()


def compare(model: Any, laid: PackedBatch, wanted: Callable[[nn.Embedding], torch.Tensor]) -> None:
    """Log-probabilities, and the gradients of the items' vectors and of all weights in training."""
    vectors = item_vectors()
    trained = [*vectors.parameters(), *(p for p in model.parameters() if p.requires_grad)]
    found = []
    for logps in (PackedPolicy(model, vectors)(laid), wanted(vectors)):
        value = (logps * torch.cos(torch.arange(len(logps)))).sum()
        gradients = torch.autograd.grad(value, trained, allow_unused=True)
        found.append((logps.detach(), gradients[0], torch.cat([g.flatten() for g in gradients[1:] if g is not None])))
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert (found[0][1].norm(dim=1) > 0).tolist() == [True, False, True, True]  # item 1 stands nowhere


def test_packed_prompts_with_items_equal_separate_ones(model: Any) -> None:
    def wanted(vectors: nn.Embedding) -> torch.Tensor:
        rows = zip(PROMPTS, ANSWERS, strict=True)
        return torch.stack([plain(model, vectors, prompt, [], answer) for prompt, row in rows for answer in row])

    compare(model, pack(PROMPTS, ANSWERS, 0), wanted)


def test_dense_rows_with_items_equal_separate_ones(model: Any) -> None:
    def wanted(vectors: nn.Embedding) -> torch.Tensor:
        found = []
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True):
            seen: list[int] = []
            for answer in answers:
                found.append(plain(model, vectors, prompt, seen, answer))
                seen = [*seen, *answer]
        return torch.stack(found)

    compare(model, chain(PROMPTS, ANSWERS, 0), wanted)


def test_the_token_where_an_item_stands_is_not_read(model: Any) -> None:
    other = [EncodedPrompt([5, 11, 6, 12, 13], PROMPTS[0].items), PROMPTS[1], EncodedPrompt([99], PROMPTS[2].items)]
    policy = PackedPolicy(model, item_vectors()).eval()
    with torch.inference_mode():
        assert torch.equal(*(policy(pack(prompts, ANSWERS, 0)) for prompts in (PROMPTS, other)))


def test_text_has_no_places_and_left_padding_moves_them() -> None:
    assert item_places(PROMPTS[1:2]) is None
    assert pack(PROMPTS[1:2], ANSWERS[1:2], 0).items_E3 is None
    places = item_places(PROMPTS, [0, 3, 4])
    assert places is not None
    assert places.tolist() == [[0, 1, 3], [0, 3, 2], [0, 4, 0], [2, 4, 3]]


def test_items_without_vectors_are_refused(model: Any) -> None:
    with pytest.raises(RosepoError, match="no vectors of items"):
        PackedPolicy(model)(pack(PROMPTS, ANSWERS, 0))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    base = tiny_models.save(Path(tmp_path_factory.mktemp("base")), request.param, TITLES)
    chosen = PretrainedPolicy(type="pretrained", model=str(base), lora=None)
    built = store.build(chosen, PromptSettings(template="titles"), TITLES, [1] * len(TITLES), seed=1)
    built.model.eval()
    return replace(built, items=item_vectors())


def all_plain(policy: Policy) -> np.ndarray:
    answers = [policy.prompter.response_ids(title) for title in TITLES]
    with torch.inference_mode():
        rows = [[float(plain(policy.model, policy.items, prompt, [], a)) for a in answers] for prompt in PROMPTS]
    return np.array(rows)


def test_the_search_reads_items(policy: Policy) -> None:
    trie, row_ids, wanted = TitleTrie.build(policy.prompter, TITLES, TITLES), list("abc"), all_plain(policy)
    np.testing.assert_allclose(score_all(policy, trie, PROMPTS), wanted, rtol=1e-5, atol=1e-5)
    for batch in (1, 3):
        for row, found in enumerate(top_k(policy, trie, PROMPTS, 3, row_ids, batch=batch)):
            best = np.argsort(-wanted[row])[:3]
            assert found.items.tolist() == best.tolist()
            np.testing.assert_allclose(found.scores, wanted[row, best], rtol=1e-5, atol=1e-5)


def test_generation_reads_items(policy: Policy) -> None:
    trie = TitleTrie.build(policy.prompter, TITLES, TITLES)
    best = all_plain(policy).argmax(1)
    assert generate_items(policy, trie, PROMPTS, list("abc"), 3, beams=len(TITLES)).tolist() == best.tolist()
    for batch in (1, 3):
        written = write(policy, PROMPTS, batch, 4, tokens=100, cache_mib=10)
        for prompt, ids in zip(PROMPTS, written, strict=True):
            so_far: list[int] = []
            while len(so_far) < 4 and policy.prompter.end_id not in so_far:
                with torch.inference_mode():
                    x = embedded(policy.model, policy.items, prompt, so_far)
                    so_far.append(int(policy.model(inputs_embeds=x).logits[0, -1].argmax()))
            assert ids == [token for token in so_far if token != policy.prompter.end_id]
