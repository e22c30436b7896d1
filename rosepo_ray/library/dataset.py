"""Users' sequences cut into training and held-out rows, in memory: what the data stage leaves as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.data.protocol import examples as protocol
from rosepo_ray.data.protocol.user_log import UserLog
from rosepo_ray.errors import BadInput
from rosepo_ray.storage import schemas, tables


@dataclass(frozen=True)
class Dataset:
    """The tables `items`, `sequences`, `taken` and `examples` (`rosepo_ray.storage.schemas`)."""

    items: pa.Table
    sequences: pa.Table
    taken: pa.Table
    examples: pa.Table
    seed: int = 0
    """Of the protocol, as `data.seed`: it decides which rows are judged where not all are."""

    @staticmethod
    def from_sequences(
        sequences: Mapping[str, Sequence[str]],
        titles: Mapping[str, str],
        *,
        history: int = 10,
        candidates: int = 20,
        seed: int = 0,
    ) -> Dataset:
        """From what each user took, oldest first, and the title of every item that may be recommended.

        A user's last item is the test, the one before it validation. Of an item that a user took twice the first time
        counts. `history`, `candidates` and `seed` are the settings of the section `data`.

        Raises BadInput where a sequence names an item without a title, nobody took three items, or a user took so many
        that too few are left as candidates.
        """
        ids = sorted(titles)
        log = _log(sequences, {item: place for place, item in enumerate(ids)})
        item_ids = pa.array(ids, pa.string())
        made = protocol.build(
            log, protocol.split_last_two(log), item_ids, history=history, count=candidates, seed=seed, repeats=False
        )
        items = {
            "item_id": item_ids,
            "title": [titles[item] for item in ids],
            "genres": [[] for _ in ids],
            "popularity": made.popularity,
        }
        return Dataset(schemas.cast("items", pa.table(items)), made.sequences, made.taken, made.examples, seed)

    @staticmethod
    def read(folder: str, seed: int = 0) -> Dataset:
        """What a run's data stage left in `folder` (a path or URI); `seed` is the run's `data.seed`."""
        found = {name: tables.read(folder, name) for name in ("items", "sequences", "taken", "examples")}
        if not found["examples"].num_rows:
            raise BadInput(f"'{folder}' holds no examples; give the folder that a run's data stage left")
        return Dataset(**found, seed=seed)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.from_table(self.items)

    @cached_property
    def history(self) -> int:
        """Items of the past that a row shows at most."""
        return int(pc.max(pc.list_value_length(self.examples["history"])).as_py())

    def split(self, name: str) -> pa.Table:
        """The examples of one split: train, validation or test."""
        return self.examples.filter(pc.equal(self.examples["split"], name))


def _log(sequences: Mapping[str, Sequence[str]], place_of: Mapping[str, int]) -> UserLog:
    users = sorted(sequences)
    taken = [list(dict.fromkeys(sequences[user])) for user in users]
    if max(map(len, taken), default=0) < 3:
        raise BadInput(f"none of the {len(users)} users took three items, so nothing can be held out; give longer ones")
    unknown = sorted({item for items in taken for item in items} - place_of.keys())
    if unknown:
        raise BadInput(f"{len(unknown)} items of the sequences have no title, '{unknown[0]}' first; give it one")
    lengths = np.array([len(items) for items in taken])
    return UserLog(
        users,
        np.repeat(np.arange(len(users), dtype=np.int32), lengths),
        np.array([place_of[item] for items in taken for item in items], np.int32),
        np.concatenate([np.arange(length) for length in lengths]),
        np.ones(int(lengths.sum()), bool),
    )
