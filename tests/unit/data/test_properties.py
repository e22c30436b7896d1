"""Random logs with all quirks, from files to tables, against plain Python. No Ray: the functions over partitions."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosepo_ray.data.protocol import examples, split, user_log
from rosepo_ray.data.reading import interactions, readers
from rosepo_ray.data.reading.files import locate
from rosepo_ray.errors import BadInput
from rosepo_ray.run.sources import build as build_settings
from tests.random_logs import Expected, Log, expected, logs, write

PARTITIONS = 3


def read_all(case: Log, uri: str) -> tuple[pa.Table, list[tuple[str, int, str]], int, int]:
    """Rows in the form of partitions, (file, row, kind) of those left out, and how many are readable and unknown."""
    data = build_settings({"data": {**case.data, "interactions": uri, "items": uri}}).data
    blocks, bad, readable, unknown = [user_log.ROWS.empty_table()], [], 0, 0
    for file in locate(uri, "interactions", text=data.format):
        for batch in readers.read(file, interactions.wanted(data.columns, data.min_rating)):
            rows = interactions.normalise(
                batch, timed=case.timed, rating_needed=data.min_rating is not None, missing=data.missing_ids
            )
            bad += [
                (file.path, row + 1, interactions.KINDS[kind])
                for row, kind in zip(rows.bad_rows.tolist(), rows.bad_kinds, strict=True)
            ]
            table = rows.interactions
            codes = pc.fill_null(pc.index_in(table["item_id"], value_set=pa.array(case.items)), -1)
            columns = [table["user_id"], codes, table["timestamp"], rows.time_kinds, table["rating"], table["row"]]
            found = pa.table(columns, schema=user_log.ROWS)
            known = found.filter(pc.greater_equal(found["item"], 0))
            readable, unknown = readable + len(found), unknown + len(found) - len(known)
            blocks.append(known)
    return pa.concat_tables(blocks), bad, readable, unknown


def make(case: Log, uri: str, one_file: bool) -> tuple[dict[str, Any], dict[str, int], list[tuple[str, int, str]]]:
    """Tables (rows of all partitions), counts, and the rows left out."""
    rows, bad, readable, unknown = read_all(case, uri)
    fractions = 1 in rows["time_kind"].to_pylist()
    place = user_log.partition_of(rows["user_id"], PARTITIONS)
    ordered = [
        user_log.order(
            rows.filter(pa.array(place == number)),
            items=len(case.items),
            one_file=one_file,
            min_rating=case.min_rating,
            fractions=fractions,
            repeats=case.repeats == "keep",
        )
        for number in range(PARTITIONS)
    ]
    users = [found for found, _, _ in ordered]
    kept = sum(int(found.kept_N.sum()) for found in users)
    times = split_times(users, kept) if case.timed and case.split != "last_two" and kept else None
    tables: dict[str, Any] = {"sequences": [], "taken": [], "examples": []}
    popularity = np.zeros(len(case.items), np.int64)
    for found in users:
        splits = examples.split_by_time(found, *times) if times else examples.split_last_two(found)
        how = {"history": case.history, "count": case.candidates, "seed": 0, "repeats": case.repeats == "keep"}
        made = examples.build(found, splits, pa.array(case.items), **how)
        for name, table in tables.items():
            table += getattr(made, name).to_pylist()
        popularity += made.popularity
    counts = {
        "interactions": readable,
        "unknown_items": unknown,
        "duplicates": sum(number for _, number, _ in ordered),
        "filtered": sum(int((~found.kept_N).sum()) for found in users),
        "kept": kept,
        "users": sum(len(found.users) for found in users),
    }
    tables["popularity"] = popularity.tolist()
    return {k: sorted(v, key=str) if k != "popularity" else v for k, v in tables.items()}, counts, bad


def split_times(users: list[user_log.UserLog], kept: int) -> list[int]:
    times = [found.time_N[found.kept_N] for found in users]

    def count(low: int, high: int) -> np.ndarray:
        return np.sum([split.histogram(part, low, high) for part in times], axis=0)

    everything = np.concatenate(times)
    low, high = int(everything.min()), int(everything.max())
    return [split.find_cut(rank, low, high, count).time for rank in split.time_ranks(kept)]


def check(case: Log, tables: dict[str, Any], counts: dict[str, int], reference: Expected) -> None:
    """The invariants, then equality with the reference."""
    sequences = {row["user_id"]: row["items"] for row in tables["sequences"]}
    taken = {row["user_id"]: row["whole"] for row in tables["taken"]}
    targets: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for row in tables["examples"]:
        user, target = row["user_id"], row["target"]
        targets[row["split"]].add((user, target))
        order, position = reference.order[user], int(row["example_id"].split(":")[1])
        assert order[position] == target
        assert row["history"] == order[:position][-case.history :], "the history holds the target's future"
        assert row["seen"] == (0 if case.repeats == "keep" else taken[user].index(target))
        if case.repeats == "first":
            assert target not in row["history"]
        others = [item for item in row["candidates"] if item != target]
        assert len(row["candidates"]) == len(set(row["candidates"])) == case.candidates
        assert len(others) == case.candidates - 1, "the target is there once"
        own = reference.training[user] if row["split"] == "train" else reference.whole[user]
        assert not set(others) & own, "a candidate was taken"
    for held_out in ("validation", "test"):
        for user, target in targets[held_out] if case.repeats == "first" else ():
            assert target not in sequences.get(user, []), "a held-out item is in the training sequences"
            assert (user, target) not in targets["train"]
    for row in tables["examples"]:
        if row["split"] == "train":
            assert set(row["history"]) | {row["target"]} <= set(sequences[row["user_id"]])
    learnt = list(itertools.chain.from_iterable(sequences.values()))
    assert tables["popularity"] == [learnt.count(item) for item in case.items]
    assert counts["interactions"] == sum(counts[name] for name in ("unknown_items", "duplicates", "filtered", "kept"))

    assert {name: counts[name] for name in reference.counts} == reference.counts
    assert sequences == reference.sequences
    assert {row["user_id"]: set(row["training"]) for row in tables["taken"]} == reference.training
    assert {user: set(items) for user, items in taken.items()} == reference.whole
    assert all(len(set(items)) == len(items) for items in taken.values())
    found = {
        row["example_id"]: (row["user_id"], row["history"], row["target"], row["split"]) for row in tables["examples"]
    }
    assert found == reference.examples


def crowded(case: Log, reference: Expected) -> bool:
    """Whether some user with an example leaves too few items for a candidate set."""
    judged = {user for user, *_ in reference.examples.values()}
    return any(len(case.items) - len(reference.whole[user]) < case.candidates - 1 for user in judged)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(case=logs(), seed=st.integers(0, 999), files=st.integers(2, 4), block=st.sampled_from([300, 1 << 20]))
def test_random_logs(case, seed, files, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", block)
        patch.setattr(split, "BINS", 4)
        one = write(case, Path(folder, "one"), seed, 1)
        layouts = [(one, next(iter(one.files)))]
        if case.timed:
            many = [write(case, Path(folder, str(n)), seed + n, files + n) for n in range(2)]
            layouts += [(written, str(written.folder)) for written in many]
        seen = []
        for written, uri in layouts:
            reference = expected(case, written)
            if crowded(case, reference):
                with pytest.raises(BadInput, match=r"which leaves .* for candidate sets"):
                    make(case, uri, reference.one_file)
                continue
            tables, counts, bad = make(case, uri, reference.one_file)
            assert {(path, row) for path, row, _ in bad} == reference.dropped
            assert len(bad) == len(reference.dropped) == len(case.events) - counts["interactions"]
            assert {kind: sum(k == kind for *_, k in bad) for kind in interactions.KINDS} == reference.kinds
            check(case, tables, counts, reference)
            seen.append((reference.one_file, tables))
        # How the rows are spread over files, and in which order, is not seen where they have a time.
        spread = [tables for one_file, tables in seen if not one_file]
        assert all(tables == spread[0] for tables in spread)
