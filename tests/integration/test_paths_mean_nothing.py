"""A folder column=value in the path of a run names no column of its tables."""

import pytest

from rosepo_ray.on_ray.pair_stream import PairStream
from rosepo_ray.run.sources import build
from rosepo_ray.storage import tables

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize("folder", ["run", "user_id=5", "history=12", "example_id=x"])
def test_the_alignment_stream_takes_every_column_from_the_file(tmp_path, folder):
    pairs = [
        {
            "example_id": f"u{n}:1",
            "user_id": f"u{n}",
            "split": "train",
            "history": ["a", "b"],
            "candidates": None,
            "chosen": "c",
            "rejected": ["d"],
            "rejected_text": ["D"],
            "strategy": ["uniform"],
            "ref_chosen_logp": -1.0,
            "ref_rejected_logps": [-2.0],
        }
        for n in range(3)
    ]
    run = tmp_path / folder / "run"
    tables.write_part(str(run / "reject"), "pairs", 0, tables.from_rows("pairs", pairs))
    settings = build({"oracle": {"type": "constant", "epsilon": 0.1}})
    order = ["u2:1", "u0:1", "u1:1"]
    stream = PairStream(str(run / "reject"), str(run / "align"), settings.oracle, frozenset({"epsilon"}), None, None)
    found = list(stream(order))
    assert [row["example_id"] for row in found] == order
    assert [row["user_id"] for row in found] == ["u2", "u0", "u1"]
    assert all(row["history"] == ["a", "b"] for row in found)
