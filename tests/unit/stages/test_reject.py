"""The rejecting actor on a small policy, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rosepo_ray.config.sources import build

from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import store
from rosepo_ray.stages import reject
from rosepo_ray.storage import tables

TITLES = {"a": "Heat", "b": "Alien", "c": "heat ", "d": "Brazil", "e": "Solaris"}  # a and c read the same


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    data, sft = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("sft")
    rows = [{"item_id": i, "title": t, "genres": None, "popularity": 1} for i, t in TITLES.items()]
    tables.write_part(str(data), "items", 0, tables.from_rows("items", rows))
    chosen = ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280)
    store.save(store.build(chosen, PromptSettings(), list(TITLES.values()), [1] * 5, 1), sft / "model")
    return data, sft


def example(number: int, target: str, candidates: str, excluded: str) -> dict[str, Any]:
    return {
        "example_id": f"u:{number}",
        "user_id": "u",
        "history": ["b"],
        "target": target,
        "candidates": list(candidates),
        "split": "train",
        "seen": 1,
        "excluded": list(excluded),
    }


ROWS = [
    example(1, "a", "ade", "ab"),
    example(2, "a", "acd", "abd"),  # c bears the target's title, d was taken
    example(3, "d", "dce", "bd"),
    example(4, "d", "dce", "abcde"),  # everything was taken
]


@pytest.mark.parametrize("strategy", ["self_hard", "uniform", "popularity", "semantic", "mix"])
def test_a_row_with_nothing_to_reject_is_passed_over(folders: tuple[Path, Path], strategy: str):
    chosen: dict[str, Any] = {"type": strategy, **({"self_hard": 1, "uniform": 1} if strategy == "mix" else {})}
    actor = reject.Rejector(build({"rejection": {"strategy": chosen}}), *map(str, folders))
    pairs = actor(pa.Table.from_pylist(ROWS), "")
    assert pairs["example_id"].to_pylist() == [row["example_id"] for row in ROWS]
    left = reject._with_rejected(pairs).to_pylist()
    # From the whole catalogue row 2 may be given e, which stands not among its candidates.
    whole = strategy in ("popularity", "semantic")
    assert [row["example_id"] for row in left] == ["u:1", *(["u:2"] if whole else []), "u:3"]
    for row in left:
        assert row["rejected"][0] not in ROWS[int(row["example_id"][2:]) - 1]["excluded"]
        assert row["rejected"][0] != "c" or row["chosen"] != "a"
    nothing = actor(pa.Table.from_pylist(ROWS[3:]), "")
    assert reject._with_rejected(nothing).num_rows == 0


def test_the_stage_refuses_where_too_many_rows_are_passed_over(tmp_path: Path):
    pair = {"example_id": "u:1", "user_id": "u", "history": ["b"], "candidates": ["a", "d"], "chosen": "a",
            "rejected": ["d"], "rejected_text": ["Brazil"], "strategy": ["uniform"], "ref_chosen_logp": -1.0,
            "ref_rejected_logps": [-2.0]}  # fmt: skip
    pairs = tables.from_rows("pairs", [pair | {"split": s} for s in ["train"] * 8 + ["validation"]])
    tables.write_part(str(tmp_path), "pairs", 0, pairs)
    counted = {"pairs": {"train": 8, "validation": 1}, "strategies": {"uniform": 9}, "passed_over": 1}
    assert reject._counted(str(tmp_path), 10, 1) == counted
    with pytest.raises(BadInput, match="2 of 11 examples have no 1 distinct items that could be rejected"):
        reject._counted(str(tmp_path), 11, 1)
