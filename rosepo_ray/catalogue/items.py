"""The items that can be rejected: ids, titles, popularity, and which of them bear the same title."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from rosepo_ray.catalogue.requests import Requests
from rosepo_ray.errors import RosepoError


def title_key(title: str) -> str:
    """A title as it is compared: Unicode NFC, spaces collapsed, case folded; the whole title."""
    folded = unicodedata.normalize("NFC", title).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


@dataclass(frozen=True)
class Catalogue:
    """Every item, in any order.

    Attributes:
        item_ids: distinct ids [N].
        titles: their titles [N].
        popularity: their interactions in the training split [N], counts.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    popularity: tuple[int, ...]

    def __post_init__(self) -> None:
        # Lists are welcome as arguments; tuples keep the catalogue immutable.
        for name in ("item_ids", "titles", "popularity"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.item_ids) == len(self.titles) == len(self.popularity):
            raise RosepoError(
                f"a catalogue got {len(self.item_ids)} ids, {len(self.titles)} titles and {len(self.popularity)} "
                "popularities; they must be as many"
            )
        if len(self.index) != len(self.item_ids):
            raise RosepoError(f"a catalogue got {len(self.item_ids)} ids of which only {len(self.index)} are distinct")
        if any(count < 0 for count in self.popularity):
            raise RosepoError("a catalogue got a negative popularity; it counts interactions")

    @classmethod
    def from_titles(cls, titles: Mapping[str, str]) -> Catalogue:
        """Of a title per item id; nobody is said to have taken any."""
        return cls(tuple(titles), tuple(titles.values()), (0,) * len(titles))

    @classmethod
    def from_table(cls, items: pa.Table) -> Catalogue:
        """The catalogue of an `items` table (`rosepo_ray.storage.schemas`)."""
        columns = (items.column(name).to_pylist() for name in ("item_id", "title", "popularity"))
        return cls(*map(tuple, columns))

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each item id."""
        return {item: position for position, item in enumerate(self.item_ids)}

    @cached_property
    def requests(self) -> Requests:
        """Makes requests of these items."""
        return Requests(dict(zip(self.item_ids, self.titles, strict=True)))

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        bearers: dict[str, list[str]] = defaultdict(list)
        for item, title in zip(self.item_ids, self.titles, strict=True):
            bearers[title_key(title)].append(item)
        return bearers

    def bearers(self, text: str) -> list[str]:
        """The items whose title `text` is, but for case and spaces."""
        return self._by_key.get(title_key(text), [])

    def named(self, text: str) -> str | None:
        """The one item whose title `text` is, but for case and spaces; None where none or several bear it."""
        bearers = self.bearers(text)
        return bearers[0] if len(bearers) == 1 and title_key(text) else None

    def spelled(self, text: str) -> list[str]:
        """The title of the item that `text` names, as the catalogue spells it; nothing where it names none."""
        item = self.named(text)
        return [] if item is None else [self.title_of(item)]

    def title_of(self, item_id: str) -> str:
        return self.titles[self.index[item_id]]

    @cached_property
    def _twins(self) -> dict[str, frozenset[str]]:
        """Only items that share their title with another item: id -> the ids of all who bear it."""
        shared = [frozenset(items) for items in self._by_key.values() if len(items) > 1]
        return {item: items for items in shared for item in items}

    def same_title(self, item_ids: Iterable[str]) -> set[str]:
        """Ids of all items that bear the title of one of `item_ids`, where several items share it.

        Logs do list one film under two ids. To a language model they are one answer, so such a twin of the
        target or of an item taken can be no rejected item.
        """
        found: set[str] = set()
        for item in self._twins.keys() & set(item_ids):
            found |= self._twins[item]
        return found
