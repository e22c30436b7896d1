"""Can this policy read and write every title, and is there room for it? Known as soon as the items are, before SFT."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.catalogue.items import title_key
from rosepo_ray.catalogue.requests import Request, Requests
from rosepo_ray.config.policy import PolicySettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import scratch
from rosepo_ray.policy.prompts import Prompter
from rosepo_ray.storage import tables

LOGGER = logging.getLogger(__name__)

_AT_ONCE = 10_000
LEAST_PROMPT = 16
"""As `prompt.max_tokens` demands."""
_MEASURED = 20
"""Prompts per part that are written out to know their length exactly; the others are estimated to be shorter."""


@dataclass(frozen=True)
class _Prompt:
    """The longest prompt with a single history item, which is the least that truncation can leave."""

    tokens: int
    whose: str
    listed: int


def refuse_unreadable_titles(policy: PolicySettings, prompt: PromptSettings, data: str, *, generate: bool) -> None:
    """Raises BadInput where a title of the data stage in `data` cannot be encoded, cannot be written back, or does not
    fit beside a prompt; or where a prompt with one history item does not fit. `generate`: see :func:`title_lengths`."""
    items = tables.read(data, "items", ["item_id", "title", "popularity"])
    titles = items["title"].to_pylist()
    context, whose = None, ""
    if isinstance(policy, PretrainedPolicy):
        from rosepo_ray.policy import pretrained

        tokenizer = pretrained.refuse_unfit_model(policy, prompt.max_tokens)
        config = pretrained.config_of(policy)
        context, rows, whose = pretrained.context(config), int(config.vocab_size), policy.model
    else:
        popularity = items["popularity"].to_pylist()
        tokenizer = scratch.train_tokenizer(titles, popularity, policy.vocabulary, policy.across_words)
        rows = len(tokenizer)  # and as many positions as prompt and title need
    prompter = Prompter(tokenizer, prompt)
    lengths = title_lengths(prompter, titles, generate, rows)
    longest = titles[int(np.argmax(lengths))]
    if prompt.list_candidates:
        longest_prompt = _longest_list(prompter, items, lengths, data)
    else:
        longest_prompt = _Prompt(len(prompter.whole_prompt_ids(Request([longest]))), f"the title {_short(longest)}", 0)
    if context is not None:
        _check_context(prompter, titles, lengths, longest_prompt, context, f"tokens that {whose} takes")
    _check_prompt(prompter, longest_prompt)


def title_lengths(prompter: Prompter, titles: Sequence[str], generate: bool, rows: int | None = None) -> np.ndarray:
    """Tokens [titles] of each with its end token.

    Raises BadInput where a title has no tokens, unknown ones, the end token or (with `rows`, those of the embedding)
    ones without a row among them, or (with `generate`) where its tokens spell another title, so that a policy that
    writes freely could never name it; without `generate` such titles are warned of.
    """
    tokenizer = prompter.tokenizer
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id != prompter.end_id else None
    lengths, unreadable, changed = [], [], []
    for start in range(0, len(titles), _AT_ONCE):
        part = titles[start : start + _AT_ONCE]
        for title, ids in zip(part, prompter.all_text_ids(part), strict=True):
            lengths.append(len(ids) + 1)
            beyond = rows is not None and max(ids, default=0) >= rows
            if not ids or unknown in ids or prompter.end_id in ids or beyond:
                unreadable.append(title)
            elif title_key(prompter.written(ids)) != title_key(title):
                changed.append(title)
    if unreadable:
        raise BadInput(
            f"the policy's tokenizer cannot encode {_some(unreadable, titles)} with tokens that the model knows; "
            "rename these items, or use a model whose tokenizer falls back to bytes (policy.type scratch does)"
        )
    if changed and not generate:
        LOGGER.warning(
            "the policy's tokenizer does not give back %s: to the policy they may be the same as others",
            _some(changed, titles),
        )
    elif changed:
        ids = prompter.text_ids(changed[0])
        raise BadInput(
            f"the policy's tokenizer does not give back {_some(changed, titles)} (the first becomes "
            f"{_short(prompter.written(ids))}), so free generation could never name them; rename these items, use "
            "another model, or set evaluation.generate false"
        )
    return np.array(lengths)


def _check_context(
    prompter: Prompter,
    titles: Sequence[str],
    lengths: np.ndarray,
    prompt: _Prompt,
    context: int,
    place: str,
) -> None:
    """The model must take prompt.max_tokens and the longest title together."""
    most, longest = prompter.settings.max_tokens, int(lengths.max())
    left = context - most
    if longest <= left:
        return
    told = (
        f"{int((lengths > left).sum())} of {len(titles)} titles do not fit: the longest, "
        f"{_short(titles[int(np.argmax(lengths))])}, has {longest} tokens with its end token, and prompt.max_tokens "
        f"{most} leaves {left} of the {context} {place}"
    )
    ways = []
    if prompt.tokens <= context - longest >= LEAST_PROMPT:
        ways.append(f"lower prompt.max_tokens to {context - longest}")
    else:
        told += f", while a prompt with a single history item takes up to {prompt.tokens}"
    raise BadInput(f"{told}; {' or '.join([*ways, 'shorten the titles'])}")


def _check_prompt(prompter: Prompter, prompt: _Prompt) -> None:
    if prompt.tokens > prompter.settings.max_tokens:
        fewer = f", lower data.candidates ({prompt.listed})" if prompt.listed else ""
        raise BadInput(
            f"the prompt of {prompt.whose} has {prompt.tokens} tokens with a single history item, and "
            f"prompt.max_tokens is {prompter.settings.max_tokens}; raise prompt.max_tokens to {prompt.tokens}{fewer} "
            "or shorten the titles"
        )


def _longest_list(prompter: Prompter, items: pa.Table, lengths: np.ndarray, data: str) -> _Prompt:
    """Writes out the prompts of the examples that are longest by the sum of their titles' tokens."""
    requests = Requests(dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)))
    prompts = [_Prompt(0, "no example", 0)]
    for _, example, last, candidates in heapq.nlargest(_MEASURED, _longest(items["item_id"], lengths, data)):
        ids = prompter.whole_prompt_ids(requests.of([last], candidates))
        whose = f"example {example}, which lists {len(candidates)} candidates,"
        prompts.append(_Prompt(len(ids), whose, len(candidates)))
    return max(prompts, key=lambda prompt: prompt.tokens)


def _longest(item_ids: pa.ChunkedArray, lengths: np.ndarray, data: str) -> Iterator[tuple[int, str, str, list[str]]]:
    """Of each part the longest examples: (tokens, example_id, most recent item, candidates)."""
    ids = item_ids.combine_chunks()

    def tokens(items: pa.Array) -> np.ndarray:
        return lengths[pc.index_in(items, value_set=ids).to_numpy(zero_copy_only=False)]

    for uri in tables.parts(data, "examples"):
        part = tables.read_part(uri, "examples", ["example_id", "history", "candidates"])
        history, candidates = (part[name].combine_chunks() for name in ("history", "candidates"))
        last = history.values.take(pc.subtract(history.offsets[1:], 1))
        starts = candidates.offsets.to_numpy()[:-1]
        sizes = tokens(last) + np.add.reduceat(tokens(candidates.values), starts)
        for row in np.argsort(-sizes)[:_MEASURED].tolist():
            yield int(sizes[row]), part["example_id"][row].as_py(), last[row].as_py(), candidates[row].as_py()


def _some(found: Sequence[str], titles: Sequence[str]) -> str:
    return f"{len(found)} of {len(titles)} titles ({', '.join(_short(title) for title in found[:3])})"


def _short(title: str) -> str:
    return repr(title if len(title) <= 60 else title[:57] + "…")
