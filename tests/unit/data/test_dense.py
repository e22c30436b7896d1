"""Windows of training examples: histories that grow out of each other, each example in one window, windows chosen
whole."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_ray.data.choice import choose
from rosepo_ray.data.dense import PairWindows, together


def examples(lengths: list[int], history: int, judged: int = 0) -> pa.Table:
    """As the data stage writes them; the last `judged` positions of each user are of the test split."""
    rows = []
    for user, length in enumerate(lengths):
        items = [f"{user}-{n}" for n in range(length)]
        for at in range(1, length):
            rows.append(
                {
                    "example_id": f"u:{user}:{at}",  # a user id may hold the sign
                    "user_id": f"u:{user}",
                    "history": items[max(0, at - history) : at],
                    "target": items[at],
                    "split": "train" if at < length - judged else "test",
                }
            )
    return pa.Table.from_pylist(rows)


logs = st.lists(st.integers(2, 40), min_size=1, max_size=5)


@given(lengths=logs, history=st.integers(1, 7), seed=st.integers(0, 99), judged=st.integers(0, 1))
def test_histories_begin_with_their_window_and_judged_rows_stay(
    lengths: list[int], history: int, seed: int, judged: int
) -> None:
    before = examples(lengths, history, judged)
    windows = PairWindows(history, seed)
    after = windows.cut(before)
    assert after.schema == before.schema
    assert after.drop_columns(["history"]) == before.drop_columns(["history"])
    open_at: dict[str, tuple[str, list[str]]] = {}
    for old, new, name in zip(before.to_pylist(), after.to_pylist(), windows.names(before), strict=True):
        if old["split"] == "test":
            assert new == old
            continue
        shown = new["history"]
        assert shown == old["history"][len(old["history"]) - len(shown) :]
        window, seen = open_at.get(old["user_id"], ("", []))
        if name == window:
            assert shown == seen  # all that the window held before, the last target too
        else:
            assert len(shown) == 1
            assert name == f"{old['user_id']}:{int(old['example_id'].rpartition(':')[2]) - 1}"
        assert len(shown) <= history
        open_at[old["user_id"]] = name, [*shown, old["target"]]


@given(lengths=logs, history=st.integers(1, 7), seed=st.integers(0, 99))
def test_together_finds_the_windows_in_the_cut_histories(lengths: list[int], history: int, seed: int) -> None:
    before = examples(lengths, history)
    windows = PairWindows(history, seed)
    wanted: dict[str, list[str]] = {}
    for name, row in zip(windows.names(before), before["example_id"].to_pylist(), strict=True):
        wanted.setdefault(name, []).append(row)
    assert together(windows.cut(before)) == list(wanted.values())
    sizes = [len(unit) for unit in wanted.values()]
    assert max(sizes) <= history


@settings(max_examples=30)
@given(lengths=logs, limit=st.integers(1, 60), seed=st.integers(0, 9))
def test_whole_windows_are_chosen_up_to_the_limit(lengths: list[int], limit: int, seed: int) -> None:
    table = examples(lengths, 5, 1)
    windows = PairWindows(5, seed)
    chosen = choose(table, {"train": limit}, seed, "pairs", windows).of(table)
    train = windows.cut(table.filter(pc.equal(table["split"], "train")))
    if not train.num_rows:
        assert not chosen.num_rows
        return
    units = together(train)
    taken = set(chosen["example_id"].to_pylist())
    assert all(set(unit) <= taken or not set(unit) & taken for unit in units)
    assert min(limit, train.num_rows) <= len(taken) < limit + 5
    assert chosen == train.filter(pc.is_in(train["example_id"], value_set=pa.array(sorted(taken))))


def test_another_seed_cuts_otherwise() -> None:
    table = examples([30] * 20, 5)
    assert PairWindows(5, 1).names(table) == PairWindows(5, 1).names(table) != PairWindows(5, 2).names(table)
