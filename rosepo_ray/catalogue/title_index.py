"""What a freely written title is: an item, an ambiguous title, or nothing that the catalogue knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rosepo_ray.catalogue.items import title_key

ITEM, AMBIGUOUS, UNKNOWN = "item", "ambiguous", "unknown"


class TitleIndex:
    """Titles of the catalogue, compared whole after Unicode NFC, collapsed spaces and case folding."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        """`titles`: item id -> title."""
        self._keys = {item: title_key(title) for item, title in titles.items()}
        self._bearers: dict[str, list[str]] = defaultdict(list)
        for item, key in self._keys.items():
            # A blank title names nothing, so a model that writes nothing does not write it.
            if key:
                self._bearers[key].append(item)

    def outcome(self, text: str) -> tuple[str, str | None]:
        """(`item`, its id) if exactly one item bears the title, else (`ambiguous` or `unknown`, None)."""
        bearers = self._bearers.get(title_key(text), [])
        if len(bearers) == 1:
            return ITEM, bearers[0]
        return (AMBIGUOUS if bearers else UNKNOWN), None

    def valid(self, text: str, candidates: Sequence[str]) -> str | None:
        """The one candidate whose title `text` is; None if no candidate or several bear it."""
        key = title_key(text)
        named = [item for item in candidates if key and self._keys[item] == key]
        return named[0] if len(named) == 1 else None
