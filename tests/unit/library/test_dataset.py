"""Sequences cut into rows, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosepo_ray.errors import BadInput
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.storage import tables

TITLES = {item: f"Title {item}" for item in "abcdefgh"}
TAKEN = {"v": ["c", "a", "b", "c", "d"], "u": ["a", "b"]}


def dataset() -> Dataset:
    return Dataset.from_sequences(TAKEN, TITLES, history=2, candidates=4)


def test_the_last_item_is_the_test_and_the_one_before_it_validation():
    rows = {row["example_id"]: row for row in dataset().examples.to_pylist()}
    # v took c twice, of which the first counts; u has too few items to hold any out.
    assert {name: (row["history"], row["target"], row["split"]) for name, row in rows.items()} == {
        "u:1": (["a"], "b", "train"),
        "v:1": (["c"], "a", "train"),
        "v:2": (["c", "a"], "b", "validation"),
        "v:3": (["a", "b"], "d", "test"),
    }
    assert all(row["target"] in row["candidates"] and len(set(row["candidates"])) == 4 for row in rows.values())
    assert not {"a", "b", "c"} & set(rows["v:3"]["candidates"])


def test_popularity_and_sequences_are_of_the_training_split():
    made = dataset()
    assert dict(zip(made.catalogue.item_ids, made.catalogue.popularity, strict=True)) == {
        **dict.fromkeys("defgh", 0),
        **{"a": 2, "b": 1, "c": 1},
    }
    assert made.sequences.to_pylist() == [{"user_id": "u", "items": ["a", "b"]}, {"user_id": "v", "items": ["c", "a"]}]
    assert made.history == 2


def test_the_data_stage_s_folder_is_read_back(tmp_path: Path):
    made = dataset()
    for name in ("items", "sequences", "taken", "examples"):
        tables.write_part(str(tmp_path), name, 0, getattr(made, name))
    assert Dataset.read(str(tmp_path)) == made


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        ({"u": ["a", "b"]}, "none of the 1 users took three items"),
        ({"u": ["a", "b", "x"]}, "1 items of the sequences have no title, 'x' first"),
        ({"u": list("abcdef")}, "leaves 2 for candidate sets of 4"),
    ],
)
def test_what_cannot_be_cut_is_refused(taken: dict[str, list[str]], told: str):
    with pytest.raises(BadInput, match=told):
        Dataset.from_sequences(taken, TITLES, candidates=4)


def test_a_folder_without_examples_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="holds no examples"):
        Dataset.read(str(tmp_path))
