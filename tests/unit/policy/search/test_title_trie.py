"""The trie of titles against a trie of dictionaries written down by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import scratch
from rosepo_ray.policy.prompts import Prompter
from rosepo_ray.policy.search.title_trie import TitleTrie

END = 0
ROWS = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=40)


def build(rows: list[list[int]]) -> TitleTrie:
    closed = [[*row, END] for row in rows]
    flat, lengths = np.concatenate(closed), np.array([len(row) for row in closed])
    return TitleTrie.from_ids(flat, lengths, [f"i{n}" for n in range(len(rows))])


def spelled(trie: TitleTrie, node: int) -> list[int]:
    return [int(trie.token_N[n]) for n in [*trie.path(node), node]] if node else []


def test_by_hand():
    trie = build([[7, 8], [3], [7], [7, 8], [7, 8, 9]])
    # 0 ─ 1:3 ─ 2:end | ─ 3:7 ─ 4:end, 5:8 ─ 6:end, 7:9 ─ 8:end
    assert trie.token_N.tolist() == [-1, 3, END, 7, END, 8, END, 9, END]
    assert trie.parent_N.tolist() == [-1, 0, 1, 0, 3, 3, 5, 5, 7]
    assert trie.depth_N.tolist() == [0, 1, 2, 1, 2, 2, 3, 3, 4]
    assert trie.end_N.tolist() == [9, 3, 3, 9, 5, 9, 7, 9, 9]
    assert trie.leaf_I.tolist() == [6, 2, 4, 6, 8]
    assert trie.item_I[trie.item_start_N1[6] : trie.item_start_N1[7]].tolist() == [0, 3]
    assert trie.read_R.tolist() == [1, 3, 5, 7]
    assert (trie.nodes, trie.items, trie.longest) == (9, 5, 4)
    child, owner = trie.children(np.array([5, 2, 0]))
    assert (child.tolist(), owner.tolist()) == ([6, 7, 1, 3], [0, 0, 2, 2])
    assert trie.step(np.array([0, 0, 3, 5, 8, -1, 0]), np.array([7, 4, 8, 7, 0, 7, 99])).tolist() == [
        3, -1, 5, -1, -1, -1, -1,
    ]  # fmt: skip
    assert trie.path(8) == [3, 5, 7]
    assert trie.walk(np.array([[7, 8, END], [3, END, END], [9, 7, 8]])).tolist() == [6, -1, -1]
    assert trie.walk(np.empty((2, 0), np.int64)).tolist() == [0, 0]


@given(ROWS)
def test_any_titles(rows: list[list[int]]):
    trie = build(rows)
    prefixes = {tuple([*row, END][:n]) for row in rows for n in range(len(row) + 2)}
    spellings = [tuple(spelled(trie, n)) for n in range(trie.nodes)]
    assert spellings == sorted(prefixes)  # depth first with rising tokens is the order of a dictionary
    for node, spelling in enumerate(spellings):
        below = [n for n, other in enumerate(spellings) if other[: len(spelling)] == spelling]
        assert below == list(range(node, trie.end_N[node]))
        assert trie.depth_N[node] == len(spelling)
        assert trie.parent_N[node] == (spellings.index(spelling[:-1]) if spelling else -1)
        here = trie.item_I[trie.item_start_N1[node] : trie.item_start_N1[node + 1]].tolist()
        assert here == [n for n, row in enumerate(rows) if (*row, END) == spelling]
        children, _ = trie.children(np.array([node]))
        assert [spellings[c] for c in children] == [s for s in spellings if s[:-1] == spelling and s]
        assert trie.is_leaf_N[node] == (not len(children)) == bool(here)
    assert [spellings[n] for n in trie.leaf_I] == [(*row, END) for row in rows]
    assert sorted(n for level in trie.by_depth for n in level) == list(range(1, trie.nodes))
    assert all((trie.depth_N[level] == d + 1).all() for d, level in enumerate(trie.by_depth))


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(scratch.train_tokenizer(["Toy Story", "Babe"], [1, 1], 300, True), PromptSettings())


def test_titles_of_a_tokenizer(prompter: Prompter):
    titles = ["Toy Story", "Toy", "Amélie", "Toy Story", "<|end|>", "千と千尋"]
    trie = TitleTrie.build(prompter, titles, list("abcdef"))
    for title, leaf in zip(titles, trie.leaf_I, strict=True):
        assert spelled(trie, leaf) == prompter.response_ids(title)
    assert trie.leaf_I[0] == trie.leaf_I[3]


def test_what_cannot_be_ranked_is_refused(prompter: Prompter):
    with pytest.raises(BadInput, match="no items"):
        TitleTrie.build(prompter, [], [])
    with pytest.raises(BadInput, match="cannot encode the title ''"):
        TitleTrie.build(prompter, ["Babe", ""], ["a", "b"])

    class Forgetful(Prompter):
        def all_text_ids(self, texts):  # a tokenizer whose unknown token is its end token
            return [[5, self.end_id] if text == "?" else [5] for text in texts]

    with pytest.raises(BadInput, match=r"title '\?' with the token that ends"):
        TitleTrie.build(Forgetful(prompter.tokenizer, prompter.settings), ["Babe", "?", "Toy"], ["a", "b", "c"])


def test_many_titles_are_built_without_a_loop_over_them():
    draw = np.random.default_rng(0)
    length = draw.integers(2, 7, 100_000)
    tokens = draw.integers(1, 2000, length.sum())
    tokens[length.cumsum() - 1] = END
    started = time.process_time()
    trie = TitleTrie.from_ids(tokens, length, range(len(length)))  # type: ignore[arg-type]
    assert time.process_time() - started < 5  # 0.2 s alone; a Python object per node takes many times that
    assert trie.items == 100_000
    assert trie.nodes > 250_000
