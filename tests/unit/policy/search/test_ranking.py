"""Best-first search against scoring all titles, and scoring all against one plain forward pass per title."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.ranking import rank
from rosepo_ray.policy import store
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.search.best_first import Search
from rosepo_ray.policy.search.ranking import Found, score_all, top_k
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt
from tests import tiny_models

TITLES = [
    "Toy Story", "Toy", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Babe", "Babe: Pig in the City", "Amélie",
    "Seven (Se7en)", "Toy Story 2", "B", "Four", "Twelve Monkeys", "Babe", "千と千尋", "Get Carter", "The Babe",
]  # fmt: skip


def make(folder: Path, family: str, lora: bool) -> Policy:
    base = tiny_models.save(folder, family, TITLES)
    chosen = PretrainedPolicy(type="pretrained", model=str(base), lora=LoraSettings(r=4, alpha=8) if lora else None)
    policy = store.build(chosen, PromptSettings(template="titles"), TITLES, [1] * len(TITLES), seed=1)
    tiny_models.stir_adapters(policy.model)
    return policy


def train(policy: Policy, steps: int) -> None:
    """A few plain steps towards two favourite titles."""
    ids = [
        [*prompt.ids, *policy.prompter.response_ids(TITLES[favourite])]
        for prompt in some_prompts(policy)
        for favourite in (0, 8)
    ]
    optimiser = torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        row = torch.tensor([ids[step % len(ids)]])
        policy.model(input_ids=row, labels=row).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def some_prompts(policy: Policy) -> list[EncodedPrompt]:
    return [policy.prompter.prompt_ids(Request(TITLES[n : n + m])) for n, m in ((0, 1), (3, 5), (9, 2), (1, 3))]


# An adapter is the same to the search in every family, so each is tried one way; unit tests must stay quick.
@pytest.fixture(scope="module", params=["llama lora", "llama-tied full", "qwen2 lora", "qwen3 full", "gpt2 lora"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    family, how = request.param.split()
    return make(tmp_path_factory.mktemp("base"), family, how == "lora")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return make(tmp_path_factory.mktemp("base"), "llama", False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    policy = make(tmp_path_factory.mktemp("base"), "llama", False)
    train(policy, 24)
    return policy


def catalogue(policy: Policy, titles: list[str] = TITLES) -> TitleTrie:
    return TitleTrie.build(policy.prompter, titles, [f"i{n}" for n in range(len(titles))])


def naive(policy: Policy, prompt: EncodedPrompt, response: list[int]) -> float:
    """log pi(y|x) by one plain forward pass over prompt + response."""
    with torch.inference_mode():
        logps = policy.model.eval()(input_ids=torch.tensor([prompt.ids + response])).logits[0].float().log_softmax(-1)
        return float(sum(logps[len(prompt) + i - 1, token] for i, token in enumerate(response)))


def all_naive(policy: Policy, prompts: list[EncodedPrompt]) -> np.ndarray:
    return np.array([[naive(policy, p, policy.prompter.response_ids(t)) for t in TITLES] for p in prompts])


def assert_is_the_ranking(
    found: Found, trie: TitleTrie, scores: np.ndarray, row_id: str, k: int, left_out: Sequence[int] = ()
) -> None:
    """As evaluation ranks what is not left out; titles whose scores differ by rounding alone may change places."""
    places = [n for n in range(trie.items) if n not in left_out]
    ids, values = rank(row_id, [trie.item_ids[n] for n in places], scores[places])
    assert len(found.items) == min(k, len(places)) == len(set(found.items.tolist()))
    assert not set(found.items.tolist()) & set(left_out)
    np.testing.assert_allclose(found.scores, values[:k], atol=1e-4)
    for place, item in enumerate(found.items):
        if ids[place] != trie.item_ids[item]:
            assert abs(scores[item] - values[place]) < 1e-4


def assert_exact(policy: Policy, trie: TitleTrie, prompts: list[EncodedPrompt], k: int, **how: Any) -> list[Found]:
    row_ids = [f"row {n}" for n in range(len(prompts))]
    found = top_k(policy, trie, prompts, k, row_ids, **how)
    scores = score_all(policy, trie, prompts)
    for one, row, row_id, items in zip(found, scores, row_ids, how.get("left_out", [()] * len(prompts)), strict=True):
        assert_is_the_ranking(one, trie, row, row_id, k, items)
    return found


def test_every_family(policy: Policy):
    """At random and after a little training: all scores are those of separate passes, and the search finds the best."""
    trie, prompts = catalogue(policy), some_prompts(policy)[1:3]
    for steps in (0, 6):
        train(policy, steps)
        scores = score_all(policy, trie, prompts, tokens=40, chunk=7)
        np.testing.assert_allclose(scores, all_naive(policy, prompts), rtol=1e-5, atol=1e-4)
        for k in (1, 3, 10):
            found = assert_exact(policy, trie, prompts, k, most_nodes=10_000)
            assert not any(one.scored_all for one in found)


@st.composite
def catalogues(draw: st.DrawFn) -> list[list[int]]:
    """Rows of few tokens, so that many are prefixes of others or equal to them."""
    token = st.integers(3, draw(st.sampled_from([5, 20, 250])))
    return draw(st.lists(st.lists(token, min_size=1, max_size=5), min_size=1, max_size=30))


@settings(max_examples=25)
@given(
    rows=catalogues(),
    prompts=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=12).map(EncodedPrompt), min_size=1, max_size=5),
    k=st.integers(1, 12),
    tokens=st.integers(1, 40),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 20),
    peaked=st.booleans(),
    data=st.data(),
)
def test_any_catalogue(llama: Policy, trained: Policy, rows, prompts, k, tokens, batch, chunk, peaked, data):
    policy, end = (trained if peaked else llama), llama.prompter.end_id
    closed = [[*row, end] for row in rows]
    lengths = np.array([len(row) for row in closed])
    trie = TitleTrie.from_ids(np.concatenate(closed), lengths, [f"i{n}" for n in range(len(rows))])
    scores = score_all(policy, trie, prompts, tokens=tokens, chunk=chunk)
    expected = naive(policy, prompts[-1], closed[-1])
    assert scores[-1, -1] == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert_exact(policy, trie, prompts, k, tokens=tokens, batch=batch)
    items = st.lists(st.integers(0, len(rows) - 1), max_size=len(rows) + 3)
    left_out = [data.draw(items) for _ in prompts]
    assert_exact(policy, trie, prompts, k, tokens=tokens, batch=batch, left_out=left_out)


def bounds(policy: Policy, trie: TitleTrie, prompt: EncodedPrompt) -> dict[int, float]:
    found = {}
    for node in trie.read_R:
        found[int(node)] = naive(policy, prompt, [int(trie.token_N[n]) for n in [*trie.path(node), node]])
    return found


def test_nothing_is_read_that_need_not_be(trained: Policy):
    """One node at a time, the search reads the prefixes whose sum reaches the k-th score, and no other."""
    trie, prompts = catalogue(trained), some_prompts(trained)
    for prompt, k in zip(prompts, (1, 2, 3, 5), strict=True):
        (found,) = top_k(trained, trie, [prompt], k, ["row"], tokens=1)
        needed = [bound for bound in bounds(trained, trie, prompt).values() if bound >= found.scores[-1] - 1e-4]
        assert found.nodes == len(needed)
        assert not found.scored_all


def test_what_is_left_out_costs_no_reading(trained: Policy):
    """The eight best are left out of 18: the next three are found, without a look at what only those begin with."""
    trie, prompts = catalogue(trained), some_prompts(trained)
    best = [one.items.tolist() for one in top_k(trained, trie, prompts, 11, list("abcd"))]
    found = assert_exact(trained, trie, prompts, 3, tokens=4, left_out=[items[:8] for items in best])
    wider = top_k(trained, trie, prompts, 11, list("abcd"), tokens=4)
    assert not any(one.scored_all for one in found)
    assert all(one.nodes < other.nodes for one, other in zip(found, wider, strict=True))


def test_of_items_with_one_title_some_may_be_left_out(trained: Policy):
    """Of five items with the best title one remains: it fills one of three places, and the search goes on."""
    trie, prompts = catalogue(trained), some_prompts(trained)
    for prompt in prompts:
        (first,) = top_k(trained, trie, [prompt], 1, ["row"])
        twins = catalogue(trained, [*TITLES, *[TITLES[first.items[0]]] * 4])
        left_out = [[int(first.items[0]), *range(len(TITLES) + 1, len(TITLES) + 4)]]
        (found,) = assert_exact(trained, twins, [prompt], 3, tokens=1, left_out=left_out)
        assert not found.scored_all


def test_prompts_that_end_early_leave_the_others_what_they_leave_out(trained: Policy, monkeypatch: pytest.MonkeyPatch):
    kept: list[np.ndarray] = []
    real = Search._keep
    monkeypatch.setattr(Search, "_keep", lambda search, rows: (kept.append(rows), real(search, rows))[1])
    titles = [*TITLES, *(f"{first} {second} {n}" for first in "ABCDE" for second in "FGHIJ" for n in range(10))]
    trie, prompt = catalogue(trained, titles), some_prompts(trained)[1]
    (one,) = top_k(trained, trie, [prompt], 40, ["row"])
    quick, slow = one.items[20:40].tolist(), one.items[:20].tolist()  # the quick leave out what the slow look for
    found = assert_exact(trained, trie, [prompt] * 8, 2, tokens=8 * len(prompt), left_out=[quick] * 5 + [slow] * 3)
    assert any(rows[0] > 0 for rows in kept)
    assert not any(one.scored_all for one in found)


class Tokens:
    """Counts the tokens that pass through a policy's model."""

    def __init__(self, policy: Policy) -> None:
        self.read = 0
        self._embeddings = policy.model.get_input_embeddings()

    def __enter__(self) -> Tokens:
        self._hook = self._embeddings.register_forward_pre_hook(self._count)
        return self

    def _count(self, _: object, inputs: tuple[torch.Tensor]) -> None:
        self.read += inputs[0].numel()

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def test_a_peaked_model_lets_the_search_touch_little_of_a_catalogue(trained: Policy):
    titles = [
        *TITLES,
        *(f"{first} {second} {number}" for first in "ABCDE" for second in "FGHIJ" for number in range(20)),
    ]
    trie, prompts = catalogue(trained, titles), some_prompts(trained)
    with Tokens(trained) as everything:
        score_all(trained, trie, prompts)
    with Tokens(trained) as few:
        found = top_k(trained, trie, prompts, 3, list("abcd"), tokens=4 * max(map(len, prompts)))
    assert max(one.nodes for one in found) < len(trie.read_R) / 8
    prompt_tokens = len(prompts) * max(map(len, prompts))
    assert everything.read >= 4 * len(trie.read_R) + prompt_tokens
    assert sum(one.nodes for one in found) <= few.read - prompt_tokens < everything.read / 8


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many prompts each call of `score_all` was given."""
    from rosepo_ray.policy.search import ranking

    calls: list[int] = []
    real = ranking.score_all

    def counted(policy: Policy, trie: TitleTrie, prompts: Any, **how: Any) -> np.ndarray:
        calls.append(len(prompts))
        return real(policy, trie, prompts, **how)

    monkeypatch.setattr(ranking, "score_all", counted)
    return calls


@pytest.mark.parametrize("bound", [{"most_nodes": 1}, {"cache_mib": 0}])
def test_at_the_bound_all_titles_are_scored(llama: Policy, bound: dict[str, int], scored: list[int]):
    trie, prompts = catalogue(llama), some_prompts(llama)
    found = assert_exact(llama, trie, prompts, 5, **bound)
    assert all(one.scored_all and one.nodes >= len(trie.read_R) for one in found)
    assert scored == [len(prompts)]


def test_the_cache_stays_within_its_bound_and_smaller_batches_search_on(llama: Policy, monkeypatch: pytest.MonkeyPatch):
    from rosepo_ray.policy.prompt_groups import bytes_per_slot
    from rosepo_ray.policy.search.prompt_cache import CachedPrompts

    held: list[int] = []
    real = CachedPrompts.read

    def noted(cached: CachedPrompts, *given: Any) -> Any:
        answer = real(cached, *given)
        held.append(len(cached.length_B) * cached.slots * cached.bytes_per_slot)
        return answer

    monkeypatch.setattr(CachedPrompts, "read", noted)
    with torch.inference_mode():
        cached = CachedPrompts(llama, [EncodedPrompt([5, 6, 7])])
    assert bytes_per_slot(llama) == sum(2 * layer.keys[0, :, 0].nbytes for layer in cached._cache.layers)
    generator = np.random.default_rng(5)
    prompts = [EncodedPrompt(generator.integers(3, 299, 60 + n).tolist()) for n in range(30)]
    titles = [f"{first} {second} {number}" for first in "ABCDEFGH" for second in "FGHIJ" for number in range(20)]
    found = assert_exact(llama, catalogue(llama, titles), prompts, 10, cache_mib=1, tokens=10_000, most_nodes=10**6)
    assert max(held) <= 1 << 20
    assert not all(one.scored_all for one in found)


def test_only_the_prompts_at_the_bound_fall_back(llama: Policy, scored: list[int]):
    trie, prompts = catalogue(llama), some_prompts(llama)
    free = assert_exact(llama, trie, prompts, 2, batch=1, tokens=1)
    nodes = sorted(one.nodes for one in free)
    assert nodes[0] < nodes[-1]
    bounded = assert_exact(llama, trie, prompts, 2, batch=1, tokens=1, most_nodes=nodes[0])
    assert [one.scored_all for one in bounded] == [one.nodes > nodes[0] for one in free]
    # In one batch: those that are done before the bound stay found.
    together = assert_exact(llama, trie, prompts, 2, batch=4, tokens=4, most_nodes=nodes[0])
    assert {one.scored_all for one in together} == {False, True}


def test_ties_are_ordered_as_evaluation_orders_them(trained: Policy):
    """Five items share the best title, and k cuts through them."""
    trie, prompts = catalogue(trained, [*TITLES, *["Toy Story"] * 4, *["Amélie"] * 4]), some_prompts(trained)[:2]
    scores = score_all(trained, trie, prompts)
    for k in (1, 2, 4, 7):
        for row_id in ("a", "b", "c"):
            found = top_k(trained, trie, prompts, k, [row_id] * 2)
            for one, row in zip(found, scores, strict=True):
                assert [trie.item_ids[i] for i in one.items] == rank(row_id, [*trie.item_ids], row)[0][:k]
    assert any(len(set(row[one.items])) < len(one.items) for one, row in zip(found, scores, strict=True))


def test_many_open_prefixes(llama: Policy, monkeypatch: pytest.MonkeyPatch):
    """Enough titles that the search grows its arrays and drops what can no longer win."""
    dropped: list[int] = []
    real = Search._drop
    monkeypatch.setattr(Search, "_drop", lambda search, *given: (dropped.append(given[1]), real(search, *given))[1])
    draw = np.random.default_rng(0)
    rows = [[*draw.integers(3, 250, draw.integers(1, 4)).tolist(), llama.prompter.end_id] for _ in range(1500)]
    trie = TitleTrie.from_ids(
        np.concatenate(rows), np.array([len(row) for row in rows]), [f"i{n}" for n in range(1500)]
    )
    found = assert_exact(llama, trie, some_prompts(llama), 10, most_nodes=10_000)
    assert dropped
    assert 128 < max(one.nodes for one in found) < len(trie.read_R)
    assert not any(one.scored_all for one in found)


def test_more_places_than_items(llama: Policy):
    trie = catalogue(llama, TITLES[:3])
    for k in (3, 4, 50):
        found = assert_exact(llama, trie, some_prompts(llama), k)
        assert all(len(one.items) == 3 for one in found)


def test_one_item(llama: Policy):
    found = assert_exact(llama, catalogue(llama, ["Toy"]), some_prompts(llama), 1)
    assert [one.items.tolist() for one in found] == [[0]] * 4
    assert top_k(llama, catalogue(llama), [], 1, []) == []


def test_means_per_token(llama: Policy):
    """The sum over title and end token, divided by their number; another order than the sums', found by scoring all."""
    trie, prompts = catalogue(llama), some_prompts(llama)
    lengths = np.array([len(llama.prompter.response_ids(title)) for title in TITLES])
    means = score_all(llama, trie, prompts, per_token=True)
    np.testing.assert_allclose(means, all_naive(llama, prompts) / lengths, rtol=1e-5, atol=1e-4)
    row_ids = list("abcd")
    found = top_k(llama, trie, prompts, 5, row_ids, per_token=True)
    sums = top_k(llama, trie, prompts, 5, row_ids)
    for one, row, row_id in zip(found, means, row_ids, strict=True):
        assert one.scored_all
        assert_is_the_ranking(one, trie, row, row_id, 5)
    assert any(one.items.tolist() != other.items.tolist() for one, other in zip(found, sums, strict=True))


def test_tokens_that_the_model_rules_out(llama: Policy):
    """A probability of 0 makes titles equal at the bottom; they still fill the places."""
    head, trie = llama.model.get_output_embeddings(), catalogue(llama)
    first = torch.tensor([llama.prompter.response_ids(title)[0] for title in TITLES[:15]])
    hook = head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, first, -torch.inf))
    try:
        scores = score_all(llama, trie, some_prompts(llama))
        found = top_k(llama, trie, some_prompts(llama), 12, list("abcd"))
    finally:
        hook.remove()
    for one, row, row_id in zip(found, scores, "abcd", strict=True):
        assert np.isinf(row).sum() >= 10
        ids, values = rank(row_id, [*trie.item_ids], row)
        assert [trie.item_ids[i] for i in one.items] == ids[:12]
        assert one.scores.tolist() == values[:12].tolist()


def test_a_model_that_gives_no_numbers_is_told(tmp_path: Path):
    policy = make(tmp_path, "llama", False)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(float("nan"))
    for k in (1, len(TITLES)):
        with pytest.raises(RosepoError, match="not a number"):
            top_k(policy, catalogue(policy), [EncodedPrompt([5, 6])], k, ["r"])


def test_the_number_of_threads_shows_in_no_score(llama: Policy):
    trie, prompts, found = catalogue(llama), some_prompts(llama), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        seen: list[int] = []
        hook = llama.model.base_model.register_forward_hook(lambda *_, seen=seen: seen.append(torch.get_num_threads()))
        try:
            found.append([one.scores.tolist() for one in top_k(llama, trie, prompts, 5, list("abcd"))])
            assert torch.get_num_threads() == threads
        finally:
            hook.remove()
            torch.set_num_threads(1)
        assert set(seen) == {1}
    assert found[0] == found[1]
