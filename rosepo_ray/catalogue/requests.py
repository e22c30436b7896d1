"""The one place that turns item ids into what a prompt needs: titles, and the ids themselves for prompts that hold
items' vectors too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Request:
    """One prompt and the responses to judge: titles, oldest history first."""

    history: Sequence[str]
    responses: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    """Listed in the prompt where the prompt settings say so."""
    history_ids: Sequence[str] | None = None
    """The items that bear the history's titles; None where only titles are known."""

    def since(self, first: int) -> Request:
        """With the history from its title number `first` on."""
        ids = None if self.history_ids is None else self.history_ids[first:]
        return replace(self, history=self.history[first:], history_ids=ids)


@dataclass(frozen=True)
class Requests:
    """Makes requests of item ids."""

    title_of: Mapping[str, str]

    def titles(self, items: Sequence[str]) -> list[str]:
        return [self.title_of[item] for item in items]

    def of(
        self, history: Sequence[str], candidates: Sequence[str] | None = None, responses: Sequence[str] = ()
    ) -> Request:
        """Of the history's and the candidates' ids; `responses` are texts."""
        listed = None if candidates is None else self.titles(candidates)
        return Request(self.titles(history), responses, listed, list(history))

    def of_row(self, row: Mapping[str, Any], responses: Sequence[str] = ()) -> Request:
        """Of a row of any table with `history` and perhaps `candidates`."""
        return self.of(row["history"], row.get("candidates"), responses)
