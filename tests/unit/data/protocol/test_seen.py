import pyarrow as pa

from rosepo_ray.data.protocol.seen import seen_items, with_exclusions


def test_each_row_leaves_out_what_its_user_took_before():
    taken = pa.table({"user_id": ["u", "v", "w"], "whole": [["a", "b", "c"], ["c"], ["b", "a"]]})
    examples = pa.table({"user_id": ["u", "w", "u", "u"], "seen": [2, 1, 3, 0]})
    assert seen_items(examples, taken) == [["a", "b"], ["b"], ["a", "b", "c"], []]
    assert seen_items(examples.slice(0, 0), taken) == []


def test_training_rows_avoid_what_was_taken_in_training_and_the_others_the_whole_log():
    taken = pa.table({"user_id": ["u", "v"], "training": [["a"], ["b"]], "whole": [["a", "c"], ["b", "d"]]})
    rows = pa.table({"user_id": ["v", "u", "u"], "split": ["train", "train", "validation"]})
    assert with_exclusions(rows, taken)["excluded"].to_pylist() == [["b"], ["a"], ["a", "c"]]
