"""A policy to use: loaded from wherever it is, it ranks items and writes titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Self

from rosepo_ray import storage
from rosepo_ray.catalogue import ranks
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.policy import PretrainedPolicy, PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import model, store
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.scoring import score
from rosepo_ray.policy.search.ranking import top_k
from rosepo_ray.policy.search.title_trie import TitleTrie

_TITLES = ["The Third Man", "A Night at the Opera", "Modern Times"]
"""What the self-check of a foreign model writes."""
_TOKENS = 4096


class Scored(NamedTuple):
    """An item and log pi of its title (summed over its tokens and the end token, nats)."""

    item: str
    title: str
    score: float


class Policy(model.Policy):
    """What the package's functions compute with a policy, as methods. Histories are item ids, oldest first."""

    @classmethod
    def of(cls, policy: model.Policy) -> Self:
        """The same policy, with these methods."""
        return cls(*(getattr(policy, field.name) for field in fields(policy)))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, prompt: PromptSettings | None = None, device: str = "cpu") -> Self:
        """The policy that rosepo saved in the folder `name` (a path or URI, the `model` below a stage's folder), or any
        causal language model by hub name or folder, untrained for this task.

        `prompt` is how the latter is asked (in words, unless said otherwise); a saved policy knows its own. Raises
        BadInput where there is no such model, or one that this package cannot compute.
        """
        source = str(name)
        if storage.exists(storage.join(source, "policy.json")):
            if prompt is not None:
                raise BadInput(f"prompt has no effect on '{source}', which was trained with its own; leave it out")
            with storage.local_copy(source) as folder:
                return cls.of(store.load(folder, device))
        settings = PretrainedPolicy(model=source, lora=None)
        made = cls.of(store.build(settings, prompt or PromptSettings(template="instruction"), _TITLES, [], 0))
        made.model.to(device)
        return made

    def save(self, folder: str | Path) -> None:
        """Write what :meth:`from_pretrained` reads."""
        store.save(self, Path(folder))

    def rank(
        self,
        catalogue: Catalogue,
        history: Sequence[str],
        candidates: Sequence[str] | None = None,
        top: int = 10,
        *,
        latest: int = 10,
        repeats: bool = False,
    ) -> list[Scored]:
        """The `top` best of the candidates, or of the whole catalogue (an exact search), best first.

        The prompt shows the `latest` items of the history: give as many as in training (`data.history`). A ranking of
        the whole catalogue leaves out what the history holds, unless `repeats`. Raises BadInput for an unknown item,
        and for a policy that lists candidates in its prompt where none are given.
        """
        seen = _known(catalogue, history, "history")
        shown = history[-latest:]
        row_id = "\x1f".join(history)
        if candidates is not None:
            _known(catalogue, candidates, "candidates")
            named = catalogue.requests.titles(candidates)
            (scores,) = score(self, [catalogue.requests.of(shown, candidates, named)], 1, _TOKENS)
            best = ranks.top(row_id, candidates, scores, top)
            return [Scored(candidates[i], named[i], float(scores[i])) for i in best]
        prompt = self.prompter.prompt_ids(catalogue.requests.of(shown))
        left_out = None if repeats else [seen]
        (found,) = top_k(self, self._trie(catalogue), [prompt], top, [row_id], tokens=_TOKENS, left_out=left_out)
        return [
            Scored(catalogue.item_ids[i], catalogue.titles[i], float(value))
            for i, value in zip(found.items, found.scores, strict=True)
        ]

    def write(self, catalogue: Catalogue, history: Sequence[str], *, latest: int = 10) -> str:
        """The title that the policy writes by itself, greedily; it need not be one of the catalogue
        (`catalogue.named(text)` tells), whose longest title bounds its length."""
        _known(catalogue, history, "history")
        request = catalogue.requests.of(history[-latest:])
        return generate(self, [request], 1, self._trie(catalogue).longest)[0]

    @cached_property
    def _trie(self):  # type: ignore[no-untyped-def]
        return lru_cache(maxsize=1)(
            lambda catalogue: TitleTrie.build(self.prompter, list(catalogue.titles), list(catalogue.item_ids))
        )


def _known(catalogue: Catalogue, items: Sequence[str], what: str) -> list[int]:
    """Positions of the items. Raises BadInput."""
    if not items or isinstance(items, str):
        raise BadInput(f"{what} is {items!r}; give a list of one item id at least")
    if unknown := [item for item in items if item not in catalogue.index]:
        raise BadInput(f"{what} names {len(unknown)} items that the catalogue lacks, {unknown[0]!r} first")
    return [catalogue.index[item] for item in items]
