import pyarrow as pa

from rosepo_ray.data.protocol.seen import seen_items


def test_each_row_leaves_out_what_its_user_took_before():
    taken = pa.table({"user_id": ["u", "v", "w"], "whole": [["a", "b", "c"], ["c"], ["b", "a"]]})
    examples = pa.table({"user_id": ["u", "w", "u", "u"], "seen": [2, 1, 3, 0]})
    assert seen_items(examples, taken) == [["a", "b"], ["b"], ["a", "b", "c"], []]
    assert seen_items(examples.slice(0, 0), taken) == []
