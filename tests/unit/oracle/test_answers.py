"""The oracle's answers: kept the moment they are given, gathered into one table in the order of the pairs."""

from pathlib import Path

import pytest

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle import answers
from rosepo_ray.oracle.answers import Answer
from rosepo_ray.storage import tables

GIVEN = {f"u{n}:1": Answer([f"i{n}", None], [0.25, 0.0], "v1") for n in range(4)}


def some(*numbers: int) -> dict[str, Answer]:
    return {f"u{n}:1": GIVEN[f"u{n}:1"] for n in numbers}


def test_what_was_answered_is_known_at_once(tmp_path: Path):
    answers.store(str(tmp_path), some(2, 0))
    assert answers.stored(str(tmp_path)) == some(0, 2)
    assert answers.stored(str(tmp_path / "other")) == {}


def test_the_table_has_the_order_of_the_pairs_however_the_answers_came(tmp_path: Path):
    hashes = []
    for name, pieces in {"quiet": [some(0, 1, 2, 3)], "killed": [some(3), some(1, 0), some(1, 2)]}.items():
        stage = str(tmp_path / name)
        for piece in pieces:
            answers.store(stage, piece)
        gathered = answers.gather(stage, list(GIVEN))
        assert gathered["example_id"].to_pylist() == list(GIVEN)
        assert answers.table(stage) == GIVEN
        assert answers.stored(stage) == {}
        hashes.append([storage.sha256(part) for part in tables.parts(stage, "smoothing")])
        answers.store(stage, some(2))  # killed while the answers were being removed
        assert answers.gather(stage, list(GIVEN)).equals(gathered)
        assert answers.stored(stage) == {}
    assert hashes[0] == hashes[1]


def test_a_missing_answer_is_an_error(tmp_path: Path):
    answers.store(str(tmp_path), some(0, 1))
    with pytest.raises(RosepoError, match="4 pairs were trained on, but 2 have no answer"):
        answers.gather(str(tmp_path), list(GIVEN))
