"""What the rejection stage says of the rows for which nothing could be rejected."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.stages import align, reject
from rosepo_ray.storage import tables


def stored(folder: Path, *picks: tuple[str, list[str]]) -> str:
    """Pairs of (split, the strategies that picked): every second text is no item."""
    rows = [
        {
            "example_id": f"u{number}:1",
            "user_id": f"u{number}",
            "split": split,
            "history": ["a"],
            "candidates": ["a", "b"],
            "chosen": "b",
            "rejected": ["c", None, "d"][: len(names)],
            "rejected_text": ["C", "no item", "D"][: len(names)],
            "strategy": names,
            "ref_chosen_logp": -1.0,
            "ref_rejected_logps": [-2.0] * len(names),
        }
        for number, (split, names) in enumerate(picks)
    ]
    tables.write_part(str(folder), "pairs", 0, tables.from_rows("pairs", rows))
    return str(folder)


def test_rows_without_rejected_items_are_counted_and_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = stored(
        tmp_path,
        ("train", []),
        ("train", ["mixed", "generated"]),
        ("validation", ["mixed"]),
        ("validation", []),
        ("train", ["mixed"]),
    )
    with caplog.at_level(logging.WARNING, "rosepo_ray"):
        found = reject._counted(out, 5)
    assert found == reject.RejectResult({"train": 2, "validation": 1}, 2, {"mixed": 3, "generated": 1})
    assert "2 of 5 rows are passed over" in caplog.text
    assert align._units(out, dense=False) == [["u1:1"], ["u4:1"]]


def test_a_split_without_any_rejected_item_is_bad_input(tmp_path: Path) -> None:
    out = stored(tmp_path, ("train", ["mixed"]), ("validation", []), ("validation", []))
    with pytest.raises(BadInput, match=r"1 training and 0 validation pairs, and 2 rows .*rejection\.strategy"):
        reject._counted(out, 3)


def test_rows_that_are_missing_are_an_error(tmp_path: Path) -> None:
    out = stored(tmp_path, ("train", ["mixed"]), ("validation", ["mixed"]))
    with pytest.raises(RosepoError, match="holds 2 pairs of 3 examples"):
        reject._counted(out, 3)
