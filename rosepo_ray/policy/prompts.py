"""From titles to token ids. Prompt and response are tokenised apart and their ids concatenated."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config import templates
from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy.item_vectors import ItemVectors
from rosepo_ray.policy.segments import EncodedPrompt

Template = Callable[[Sequence[str], Sequence[str] | None], str]
"""From the titles of a history, oldest first, and of the candidates where the prompt lists them, to its text."""


_HERE = "\x02what the user says\x03"


def instruction(history: Sequence[str], candidates: Sequence[str] | None) -> str:
    """`prompt.template instruction`."""
    listed = "" if candidates is None else "\nThe next one is one of these:\n" + "\n".join(candidates)
    opening = "A person took these, oldest first:\n" + "\n".join(history)
    return f"{opening}{listed}\nWhich one comes next? Answer with its title.\n"


class TitlesPrompt(NamedTuple):
    """A `titles` prompt, and the column where each of its titles ends."""

    prompt: EncodedPrompt
    ends: list[int]


@dataclass
class Prompter:
    """Writes prompts and responses as token ids for one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    settings: PromptSettings
    items: ItemVectors | None = None
    """Where given, the vector of its item follows each title of the history (LLaRA)."""
    _titles: dict[str, list[int]] = field(default_factory=dict)

    @property
    def end_id(self) -> int:
        """The token that closes a title; in `titles` prompts also what separates the history."""
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def opening(self) -> list[int]:
        """What the tokenizer puts before a text (a BOS token), where it puts something."""
        whole, bare = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return list(whole[: whole.index(bare[0])]) if bare and bare[0] in whole else []

    def text_ids(self, text: str) -> list[int]:
        # A title may contain what looks like a special token; it is text here.
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def all_text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """`text_ids` of many texts at once."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [list(ids) for ids in encoded["input_ids"]]

    def written(self, ids: Sequence[int]) -> str:
        """The text of tokens that a model wrote, without its end token."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip()

    def response_ids(self, title: str) -> list[int]:
        """The title and its end token; never truncated. Raises BadInput where the tokenizer knows none of it."""
        if title not in self._titles:
            ids = self.text_ids(title)
            if not ids:
                raise BadInput(f"the tokenizer cannot encode the title {title!r}; give the item another title")
            self._titles[title] = [*ids, self.end_id]
        return self._titles[title]

    def longest_response(self, titles: Sequence[str]) -> int:
        """Tokens of the longest of these titles, its end token included."""
        return max(len(ids) for ids in self.all_text_ids(titles)) + 1

    def latest(self, history: Sequence[str]) -> int:
        """The first title of a history from which on it fits a `titles` prompt, the last at the latest."""
        room = self.settings.max_tokens - max(1, len(self.opening))
        lengths = [len(self.response_ids(title)) + (self.items is not None) for title in history]
        first = 0
        while first < len(history) - 1 and sum(lengths[first:]) > room:
            first += 1
        return first

    def prompt_ids(self, request: Request) -> EncodedPrompt:
        """The prompt, at most `settings.max_tokens` long: the oldest history items go first.

        Raises BadInput where even one history item does not fit.
        """
        for dropped in range(max(1, len(request.history))):
            prompt = self.whole_prompt_ids(request.since(dropped))
            if len(prompt) <= self.settings.max_tokens:
                return prompt
        raise BadInput(
            f"a prompt with a single history item has {len(prompt)} tokens, prompt.max_tokens is "
            f"{self.settings.max_tokens}; raise it or list fewer candidates"
        )

    def whole_prompt_ids(self, request: Request) -> EncodedPrompt:
        """The prompt, however long."""
        if self.settings.template == "titles":
            return self.titles(request).prompt
        if self.items is not None:
            raise BadInput("items' vectors stand in prompts of the template titles only, not in a text")
        if self.settings.list_candidates and not request.candidates:
            raise BadInput("prompt.list_candidates is true, but this request names no candidates")
        listed = request.candidates if self.settings.list_candidates else None
        before, behind = self._frame
        return EncodedPrompt([*before, *self.text_ids(self._words(request.history, listed)), *behind])

    def titles(self, request: Request) -> TitlesPrompt:
        """The titles of a history, each closed by the end token and followed by its item's vector, where there are
        such."""
        ids, items, ends = list(self.opening or [self.end_id]), [], []
        for number, title in enumerate(request.history):
            ids += self.response_ids(title)
            if self.items is not None:
                known = request.history_ids
                items.append((len(ids), self.items.row(known[number] if known else None)))
                ids.append(self.end_id)
            ends.append(len(ids) - 1)
        return TitlesPrompt(EncodedPrompt(ids, items), ends)

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """What stands before and behind a worded request: the tokenizer's opening, or the chat template around what the
        user says. Only the template's own text may hold special tokens: a title that looks like one stays text."""
        if not self.settings.chat:
            return self.opening, []
        if not self.tokenizer.chat_template:
            raise BadInput(
                "this model's tokenizer has no chat template; set prompt.chat false, or take an instruct model"
            )
        says = [{"role": "user", "content": _HERE}]
        if self.settings.system is not None:
            says.insert(0, {"role": "system", "content": self.settings.system})
        text = str(self.tokenizer.apply_chat_template(says, tokenize=False, add_generation_prompt=True))
        before, found, behind = text.partition(_HERE)
        if not found:
            raise BadInput("this model's chat template does not show what the user says; set prompt.chat false")
        parts = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, behind))
        first, last = (list(ids) for ids in parts)
        return first, last

    @cached_property
    def _words(self) -> Template:
        name = self.settings.template
        if templates.is_jinja(name):
            return templates.writer(name)
        found: Template = instruction if name == "instruction" else pkgutil.resolve_name(name)
        return found
