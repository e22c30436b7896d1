"""Generation that can write titles of the catalogue only: every next token must lead to a child in the title trie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from rosepo_ray import seeds
from rosepo_ray.errors import RosepoError
from rosepo_ray.policy.generation import write
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.search.left_out import LeftOut, positions
from rosepo_ray.policy.search.prompt_cache import NOT_A_NUMBER
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.policy.segments import EncodedPrompt
from rosepo_ray.policy.threads import one_thread


class TitlesOnly(LogitsProcessor):
    """Sets to minus infinity each token that does not go on with a title, for transformers' own `generate`.

    A row is `prompt` columns (padding and prompt) and what was written after them; every prompt has as many rows as
    there are beams, one after the other, and goes on with titles alone that `left_out` leaves it. A row that has ended,
    or that beam search carries along below all titles (with fewer titles than beams), may write the end token only.
    """

    def __init__(self, trie: TitleTrie, prompt: int, end_id: int, left_out: LeftOut, prompts: int) -> None:
        self._trie, self._prompt, self._end_id = trie, prompt, end_id
        self._left_out, self._prompts = left_out, prompts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        node_M = self._trie.walk(input_ids[:, self._prompt :].cpu().numpy())
        at = np.flatnonzero(node_M >= 0)
        child, owner = self._trie.children(node_M[at])
        some = self._left_out.remaining(at[owner] // (len(node_M) // self._prompts), child) > 0
        child, owner = child[some], owner[some]
        lost = np.setdiff1d(np.arange(len(node_M)), at[owner])
        rows = torch.from_numpy(np.concatenate([at[owner], lost])).to(scores.device)
        tokens = np.concatenate([self._trie.token_N[child], np.full(len(lost), self._end_id)])
        columns = torch.from_numpy(tokens).to(scores.device)
        allowed = torch.full_like(scores, -torch.inf)
        allowed[rows, columns] = scores[rows, columns]
        if allowed.isnan().any():
            raise RosepoError(NOT_A_NUMBER)
        return allowed


@one_thread()
def generate_items(
    policy: Policy,
    trie: TitleTrie,
    prompts: Sequence[EncodedPrompt],
    row_ids: Sequence[str],
    batch: int,
    beams: int = 1,
    *,
    tokens: int = 4096,
    cache_mib: int = 1024,
    left_out: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """The item (position in the catalogue) that the policy writes for each prompt, int64 [prompts]. `left_out` names
    for each prompt items that it may not write; at least one must remain.

    One beam is greedy; more keep the prefixes of the highest summed log-probability, a title's score being its sum.
    Of several items with the written title it is the first by `seeds.tie_break(row id, item id)`.
    """
    end_id, without = policy.prompter.end_id, positions(left_out, len(prompts))

    def only(which: list[int], width: int) -> TitlesOnly:
        return TitlesOnly(trie, width, end_id, LeftOut(trie, [without[i] for i in which]), len(which))

    written = write(
        policy,
        prompts,
        batch,
        trie.longest,
        beams,
        adjust=only,
        tokens=tokens,
        cache_mib=cache_mib,
    )
    rows = zip(written, row_ids, without, strict=True)
    return np.array([_item(trie, [*row, end_id], row_id, items) for row, row_id, items in rows])


def _item(trie: TitleTrie, written: list[int], row_id: str, left_out: np.ndarray) -> int:
    leaf = int(trie.walk(np.array([written]))[0])
    if leaf < 0 or not trie.is_leaf_N[leaf]:
        raise RosepoError(f"row {row_id}: constrained generation wrote the tokens {written}, which are no title")
    items = np.setdiff1d(trie.item_I[trie.item_start_N1[leaf] : trie.item_start_N1[leaf + 1]], left_out)
    return int(items[np.argmin(seeds.tie_break(row_id, (trie.item_ids[i] for i in items)))])
