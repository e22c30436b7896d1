"""The whole catalogue ranked exactly by log pi(title | prompt), title and end token summed.

`score_all` reads every node of the title trie. `top_k` reads few: no token has a log-probability above 0, so the sum of
a prefix bounds every title that begins with it, and once k titles beat all open prefixes the others need no reading.
Both compute a prompt once and give the same ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rosepo_ray.catalogue import ranks
from rosepo_ray.policy.engine.attention import additive
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompt_groups import together
from rosepo_ray.policy.search.best_first import Search
from rosepo_ray.policy.search.left_out import LeftOut, positions
from rosepo_ray.policy.search.prompt_cache import CachedPrompts
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt
from rosepo_ray.policy.threads import one_thread

_ROOM = 128
"""Slots that a search is given at the start beside the prompt; most need a few dozen."""


@dataclass(frozen=True)
class Found:
    """The best titles of one prompt."""

    items: np.ndarray
    """Positions in the catalogue, best first, int64 [k]; fewer where the catalogue is smaller."""
    scores: np.ndarray
    """float32 [k]."""
    nodes: int
    """Prefixes of titles that the model read."""
    scored_all: bool
    """Whether all titles were scored: because the search met its bound, or because k or the score needs it."""


def score_all(
    policy: Policy,
    trie: TitleTrie,
    prompts: Sequence[EncodedPrompt],
    *,
    tokens: int = 2048,
    chunk: int = 128,
    cache_mib: int = 1024,
    per_token: bool = False,
) -> np.ndarray:
    """log pi of every title [prompts, I], float32; with `per_token` its mean over the title's tokens and end token.

    At most `tokens` are read at once (one prompt, though, goes through as it is): `chunk` nodes of the trie for each of
    the prompts whose keys and values `cache_mib` has room for.
    """
    scores = np.empty((len(prompts), trie.items), np.float32)
    chunk = min(chunk, tokens)
    most = max(1, tokens // (chunk + trie.longest))
    with torch.inference_mode():
        for here in together(policy, prompts, most, tokens, chunk + trie.longest, cache_mib):
            scores[here] = _score(CachedPrompts(policy, [prompts[i] for i in here]), trie, chunk)
    return scores / trie.depth_N[trie.leaf_I].astype(np.float32) if per_token else scores


def _score(cached: CachedPrompts, trie: TitleTrie, chunk: int) -> np.ndarray:
    batch = len(cached.length_B)
    bound_BN = np.zeros((batch, trie.nodes), np.float32)  # first of each edge alone, then summed along the paths
    first, _ = trie.children(np.zeros(1, np.int64))
    owner = np.repeat(np.arange(batch), len(first))
    bound_BN[:, first] = cached.logps(cached.last_BH, owner, np.tile(trie.token_N[first], batch)).reshape(batch, -1)
    for start in range(0, len(trie.read_R), chunk):
        new = trie.read_R[start : start + chunk]
        # An ancestor outside the chunk comes before all of it, so it is an ancestor of the chunk's first node.
        path = np.array(trie.path(int(new[0])), np.int64)
        node = np.concatenate([path, new])
        seen = torch.from_numpy((node <= node[:, None]) & (node[:, None] < trie.end_N[node]))
        among = additive(seen, cached.mask_BP.dtype)
        wide = (batch, 1, len(node), cached.width)
        mask = torch.cat([cached.mask_BP[:, None, None].expand(wide), among.expand(batch, 1, -1, -1)], -1)
        positions = cached.length_B[:, None] + trie.depth_N[node] - 1
        hidden = cached.read(np.tile(trie.token_N[node], (batch, 1)), positions, mask)[:, len(path) :]
        cached.forget()
        child, owner = trie.children(new)
        owners = (owner + len(new) * np.arange(batch)[:, None]).ravel()
        logps = cached.logps(hidden.flatten(0, 1), owners, np.tile(trie.token_N[child], batch))
        bound_BN[:, child] = logps.reshape(batch, -1)
    for level in trie.by_depth:
        bound_BN[:, level] += bound_BN[:, trie.parent_N[level]]
    return bound_BN[:, trie.leaf_I]


@one_thread()
def top_k(
    policy: Policy,
    trie: TitleTrie,
    prompts: Sequence[EncodedPrompt],
    k: int,
    row_ids: Sequence[str],
    *,
    batch: int = 64,
    tokens: int = 2048,
    most_nodes: int = 2048,
    cache_mib: int = 1024,
    per_token: bool = False,
    left_out: Sequence[Sequence[int]] | None = None,
) -> list[Found]:
    """The k best items of each prompt: the ranking of `score_all`, cut. `left_out` names for each prompt the items
    (positions in the catalogue) that get no place, such as those that the user has taken before.

    `batch` prompts are searched together at most, `tokens` read at once. Where keys and values would take more than
    `cache_mib`, the prompts that are not done begin again in smaller batches. A prompt that still finds no room alone,
    or would read more than `most_nodes` nodes, is scored in full. Equal scores are ordered by `seeds.tie_break(row id,
    item id)`. Runs on one thread (see `one_thread`). A prefix bounds sums, not means: with `per_token` all titles are
    scored.
    """
    found: dict[int, Found] = {}
    without = positions(left_out, len(prompts))
    # Where all that remains has a place, there is nothing to search for.
    rest = {i: 0 for i, items in enumerate(without) if per_token or k >= trie.items - len(items)}
    searched = [i for i in range(len(prompts)) if i not in rest]
    grouped = together(policy, [prompts[i] for i in searched], batch, tokens, _ROOM, cache_mib)
    waiting = [[searched[i] for i in here] for here in grouped][::-1]
    while waiting:
        here = waiting.pop()
        excluded = LeftOut(trie, [without[i] for i in here])
        with torch.inference_mode():
            search = Search(CachedPrompts(policy, [prompts[i] for i in here]), trie, k, tokens, excluded)
            search.run(most_nodes, cache_mib << 20)
        if search.out_of_memory and len(here) > 1:
            again = [index for row, index in enumerate(here) if search.given_up[row]]
            waiting += [part for part in (again[len(again) // 2 :], again[: len(again) // 2]) if part]
        for row, index in enumerate(here):
            if search.given_up[row] and search.out_of_memory and len(here) > 1:
                continue
            leaf, score = search.finished(row)
            items, scores = _items(trie, leaf, score, without[index])
            # A probability of 0 opens nothing, so that there may be too few.
            if search.given_up[row] or len(items) < k:
                rest[index] = int(search.read[row])
                continue
            best = ranks.top(row_ids[index], [trie.item_ids[i] for i in items], scores, k)
            found[index] = Found(items[best], scores[best], int(search.read[row]), False)
    for start in range(0, len(rest), batch):
        here = list(rest)[start : start + batch]
        some = [prompts[i] for i in here]
        all_scores = score_all(policy, trie, some, tokens=tokens, cache_mib=cache_mib, per_token=per_token)
        for index, row in zip(here, all_scores, strict=True):
            best = ranks.top(row_ids[index], trie.item_ids, row, k, without[index])
            found[index] = Found(best, row[best], rest[index] + len(trie.read_R), True)
    return [found[index] for index in range(len(prompts))]


def _items(trie: TitleTrie, leaf: np.ndarray, score: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items that end at some leaves, without those left out, and the scores of their leaves."""
    first = trie.item_start_N1[leaf]
    count = trie.item_start_N1[leaf + 1] - first
    items = trie.item_I[np.repeat(first - (count.cumsum() - count), count) + np.arange(count.sum())]
    open_M = ~np.isin(items, left_out)
    return items[open_M], np.repeat(score, count)[open_M]
