"""Windows of the oracle's training: every target once per epoch, rows named and seeded by value."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.programs.oracle_rows import WindowRows
from rosepo_ray.storage import schemas
from rosepo_ray.training.windows import Cut, Sequences, cut

ITEMS = [f"i{n}" for n in range(30)]


def table(**users):
    rows = [{"user_id": user, "items": [f"i{n}" for n in items]} for user, items in users.items()]
    return pa.Table.from_pylist(rows, schema=schemas.SCHEMAS["sequences"])


def sequences(**users):
    return Sequences.from_table(table(**users), ITEMS)


def test_sequences_are_flat_and_count_from_one():
    flat = sequences(a=[3, 0], b=[], c=[2])
    assert flat.offsets.tolist() == [0, 2, 2, 3]
    assert flat.items.tolist() == [4, 1, 3]
    assert flat.popularity()[:5].tolist() == [1, 0, 1, 1, 0]
    assert len(flat.popularity()) == 30
    half = flat.select(np.array([False, True, True]))
    assert (half.user_ids.to_pylist(), half.offsets.tolist(), half.items.tolist()) == (["b", "c"], [0, 0, 1], [3])


def test_sequences_of_chunks_and_slices_keep_their_users():
    parts = pa.concat_tables([table(a=[1, 2]), table(b=[3, 4, 5]).slice(0, 1), table(x=[9], c=[6, 7]).slice(1)])
    flat = Sequences.from_table(parts, ITEMS)
    assert flat.user_ids.to_pylist() == ["a", "b", "c"]
    assert flat.offsets.tolist() == [0, 2, 5, 7]
    assert flat.items.tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_an_item_without_a_row_in_items_is_named():
    with pytest.raises(RosepoError, match="i30"):
        sequences(a=[1, 30])


def test_cut_by_hand():
    # Key 0 and epoch 0 give some first run f; with a history of 1 it can only be 1: one window per target.
    flat = sequences(a=[1, 2, 3], b=[4], c=[5, 6])
    windows = cut(flat, np.zeros(3, np.uint64), 1, 0)
    assert windows.user.tolist() == [0, 0, 2]
    assert windows.start.tolist() == [0, 1, 0]
    assert windows.length.tolist() == [1, 1, 1]


@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 1),
    st.integers(1, 11),
    st.integers(0, 3),
    st.integers(0, 2**40),
)
def test_every_item_but_the_first_is_a_target_exactly_once(lengths, history, epoch, seed):
    rows = WindowRows(sequences(**{f"u{n}": range(length) for n, length in enumerate(lengths)}), history, seed)
    windows: Cut = rows.cut(epoch)
    targets = [
        (u, s + 1 + k) for u, s, n in zip(windows.user, windows.start, windows.length, strict=True) for k in range(n)
    ]
    assert sorted(targets) == [(u, k) for u, length in enumerate(lengths) for k in range(1, length)]
    assert windows.length.min() >= 1
    assert windows.length.max() <= history
    ids = rows.row_ids(epoch)
    assert len(set(ids)) == len(ids) == len(windows.user)
    assert ids == [f"u{u}:{s}" for u, s in zip(windows.user, windows.start, strict=True)]


def test_the_offset_changes_with_epoch_and_user_and_takes_every_value():
    rows = WindowRows(sequences(**{f"u{n}": range(29) for n in range(40)}), 5, 1)
    firsts = [rows.cut(epoch).length[np.flatnonzero(rows.cut(epoch).start == 0)] for epoch in range(2)]
    assert set(firsts[0].tolist()) == {1, 2, 3, 4, 5}
    assert firsts[0].tolist() != firsts[1].tolist()
    assert WindowRows(rows.sequences, 5, 1).row_ids(1) == rows.row_ids(1)
    assert WindowRows(rows.sequences, 5, 2).row_ids(1) != rows.row_ids(1)


def test_collate_by_hand():
    rows = WindowRows(sequences(a=[10, 11, 12], b=[20, 21]), 4, 0)
    names = rows.row_ids(0)
    micro = rows.collate([(0, names.index("b:0"))])
    # b has one target; its history of one stands at the right end: 0 0 0 b0 -> b1 (items count from 1).
    assert micro.inputs.items_BT.tolist() == [[0, 0, 0, 21]]
    assert micro.inputs.targets_BT.tolist() == [[0, 0, 0, 22]]
    assert (micro.count, micro.row_ids) == (1, ["b:0"])
    whole = rows.collate([(0, n) for n in range(len(names))])
    assert whole.count == 3
    assert sorted(whole.inputs.targets_BT[whole.inputs.targets_BT > 0].tolist()) == [12, 13, 22]
    assert rows.collate([(0, 0)], real=False).count == 0


def test_collate_does_not_depend_on_the_batch_and_seeds_differ_by_epoch():
    rows = WindowRows(sequences(**{f"u{n}": range(n, n + 15) for n in range(8)}), 4, 5)
    wanted = [(0, 3), (1, 2), (0, 7), (5, 0)]
    together = rows.collate(wanted)
    for place, row in enumerate(wanted):
        alone = rows.collate([row])
        for name in ("items_BT", "targets_BT", "seeds_B"):
            assert getattr(alone.inputs, name)[0].tolist() == getattr(together.inputs, name)[place].tolist()
    everything = [(epoch, n) for epoch in range(6) for n in range(len(rows.row_ids(epoch)))]
    seeds = rows.collate(everything).inputs.seeds_B.tolist()
    assert len(set(seeds)) == len(everything)


def test_micro_batches_keep_rows_and_order():
    rows = WindowRows(sequences(**{f"u{n}": range(9) for n in range(5)}), 3, 5)
    wanted = [(0, n) for n in (4, 1, 7, 2, 0)]
    parts = rows.micro_batches(wanted, 2)
    assert [len(part.row_ids) for part in parts] == [2, 2, 1]
    assert [name for part in parts for name in part.row_ids] == [rows.row_ids(0)[n] for _, n in wanted]


def test_nothing_to_predict_is_refused():
    with pytest.raises(BadInput, match="two items"):
        WindowRows(sequences(a=[1], b=[]), 3, 1)
