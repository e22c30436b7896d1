"""Units of work: which rows are chosen, and that each chosen row is in exactly one unit."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosepo_ray.data.choice import Choice, choose
from rosepo_ray.on_ray import scoring
from rosepo_ray.seeds import derive
from rosepo_ray.storage import tables


def write(folder: Path, sizes: list[int]) -> str:
    """Parts of `examples` with that many rows; every third row is of the validation split."""
    for part, size in enumerate(sizes):
        rows = [
            {
                "example_id": f"u{part}:{n}",
                "user_id": f"u{part}",
                "history": ["a"],
                "target": "b",
                "candidates": ["b", "c"],
                "split": "validation" if n % 3 == 2 else "train",
            }
            for n in range(size)
        ]
        tables.write_part(str(folder), "examples", part, tables.from_rows("examples", rows))
    return str(folder)


def chosen(data: str, choice: Choice) -> list[str]:
    return [row for part in tables.parts(data, "examples") for row in choice.rows(part)["example_id"].to_pylist()]


def test_the_smallest_hashes_are_chosen(tmp_path: Path):
    data = write(tmp_path, [9, 0, 6])
    choice = choose(data, {"train": 4, "validation": None}, seed=3, purpose="pairs")
    train = [f"u{part}:{n}" for part, size in ((0, 9), (2, 6)) for n in range(size) if n % 3 != 2]
    smallest = sorted(train, key=lambda row: derive(3, "pairs", row))[:4]
    validation = [f"u{part}:{n}" for part, size in ((0, 9), (2, 6)) for n in range(2, size, 3)]
    assert sorted(chosen(data, choice)) == sorted([*smallest, *validation])
    assert chosen(data, choose(data, {"train": 99}, 3, "pairs")) == train


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=3), limit=st.integers(1, 800), seed=st.integers(0, 9))
def test_each_chosen_row_is_in_one_unit(sizes: list[int], limit: int, seed: int, tmp_path_factory):
    data = write(tmp_path_factory.mktemp("data"), sizes)
    choice = choose(data, {"train": limit}, seed, "pairs")
    planned = scoring.plan(data, choice)
    assert [unit.number for unit in planned] == list(range(len(planned)))
    parts = tables.parts(data, "examples")
    found = []
    for unit in planned:
        rows = choice.rows(parts[unit.part])[unit.start : unit.stop]
        assert 0 < rows.num_rows <= scoring.ROWS
        found += rows["example_id"].to_pylist()
    assert found == chosen(data, choice)
    assert len(found) == min(limit, sum(n % 3 != 2 for size in sizes for n in range(size)))
