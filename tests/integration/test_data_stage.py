"""The data stage on real files and a real Ray cluster."""

import csv
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosepo_ray import storage
from rosepo_ray.data import samples
from rosepo_ray.data.reading.interactions import KINDS
from rosepo_ray.data.reading.items import KINDS as ITEM_KINDS
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import log_plan, log_scatter
from rosepo_ray.run.sources import build
from rosepo_ray.stages.data import data
from rosepo_ray.storage import schemas, tables

pytestmark = pytest.mark.usefixtures("ray_cluster")

NO_ITEMS_DROPPED = {"dropped_items": dict.fromkeys(ITEM_KINDS, 0), "repeated_items": 0}
NAMES = ("items", "sequences", "taken", "examples")


def run(out, **settings):
    return data.start(build({"data": {"sample": "none", "candidates": 4, **settings}}), {}, str(out))


def content(out):
    """The rows of all tables, whatever the parts."""
    return {
        name: sorted(tables.read(str(out), name).to_pylist(), key=lambda row: next(iter(row.values())))
        for name in NAMES
    }


def events(users=12, items=40, each=15):
    """(user, item, rating, time) with distinct times."""
    rng = random.Random(0)
    rows = [(f"u{u}", f"i{i}", rng.choice([2, 4, 5])) for u in range(users) for i in rng.sample(range(items), each)]
    rng.shuffle(rows)
    return [(*row, 1000 + t) for t, row in enumerate(rows)]


def write_csv(path, header, rows, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, **options)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


HEADER = ("user_id", "item_id", "rating", "timestamp")


@pytest.fixture
def log(tmp_path):
    """A log as one CSV file and its items, the last of which nobody took."""
    items = [(f"i{i}", f"Title {i % 30}, The") for i in range(41)]
    return {
        "interactions": write_csv(tmp_path / "log.csv", HEADER, events()),
        "items": write_csv(tmp_path / "items.csv", ("item_id", "title"), items),
    }


def test_movielens(ray_cluster, tmp_path):
    info = data.start(build({"data": {"min_rating": 4}}), {}, str(tmp_path))
    assert info["counts"] == {
        "dropped": dict.fromkeys(KINDS, 0),
        "interactions": 100_000,
        "unknown_items": 0,
        "left_out": dict.fromkeys(("window", "users", "max_per_user", "rare"), 0),
        "duplicates": 0,
        "filtered": 44_625,
        "kept": 55_375,
        "users": 943,
        "items": 1_682,
        **NO_ITEMS_DROPPED,
        "examples": {"train": 43_547, "validation": 5_427, "test": 5_459},
    }
    assert info["split"] == "time"
    items = {row["item_id"]: row for row in tables.read(str(tmp_path), "items").to_pylist()}
    assert items["127"]["title"] == "Godfather, The"
    assert items["1"]["genres"] == ["Animation", "Children's", "Comedy"]
    assert sum(row["popularity"] for row in items.values()) == 44_300  # eight tenths of 55,375
    sequences = {row["user_id"]: row["items"] for row in tables.read(str(tmp_path), "sequences").to_pylist()}
    taken = {row["user_id"]: row for row in tables.read(str(tmp_path), "taken").to_pylist()}
    reference = movielens_by_hand()
    assert sequences == reference
    for row in tables.read(str(tmp_path), "examples").to_pylist():
        others = set(row["candidates"]) - {row["target"]}
        assert len(others) == 19
        assert len(row["candidates"]) == 20
        assert not others & set(taken[row["user_id"]]["training" if row["split"] == "train" else "whole"])
        assert row["target"] not in row["history"]
    assert storage.list_files(str(tmp_path)) == [
        *(f"examples/part-{i:05d}.parquet" for i in range(4)),
        "items/part-00000.parquet",
        *(f"sequences/part-{i:05d}.parquet" for i in range(4)),
        *(f"taken/part-{i:05d}.parquet" for i in range(4)),
    ]


def movielens_by_hand():
    """Training sequences of the sample, computed in plain Python."""
    with samples.fetch("movielens-100k")["interactions"].open() as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    kept = sorted((int(row[3]), place, row[0], row[1]) for place, row in enumerate(rows) if float(row[2]) >= 4)
    border = kept[len(kept) * 8 // 10][0]  # 889396582: it stands once, so exactly eight tenths come before
    sequences = {}
    for time, _, user, item in kept:
        if time < border:
            sequences.setdefault(user, []).append(item)
    return sequences


def test_parts_hold_the_same_users_and_fit_the_schemas(tmp_path, log):
    run(tmp_path / "out", **log)
    for index in range(4):
        users = {}
        for name in ("sequences", "taken", "examples"):
            table = pq.read_table(tmp_path / "out" / name / f"part-{index:05d}.parquet")
            assert table.schema.equals(schemas.SCHEMAS[name])
            users[name] = table["user_id"].to_pylist()
            assert users[name] == sorted(users[name])
        assert set(users["sequences"]) | set(users["examples"]) <= set(users["taken"])


def test_result_is_the_same_whatever_the_layout(tmp_path, log, monkeypatch):
    expected = run(tmp_path / "one", **log, min_rating=4)
    rows = content(tmp_path / "one")

    # the same rows over many small files, in another order, some of them empty, of several formats
    shuffled = random.Random(1).sample(events(), len(events()))
    folder = tmp_path / "many"
    for number in range(0, len(shuffled), 20):
        piece = shuffled[number : number + 20]
        if number % 3 == 0:
            write_csv(folder / f"{number}.csv", HEADER, piece)
        elif number % 3 == 1:
            text = "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\r\n" for row in piece)
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            pq.write_table(
                pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in piece]),
                folder / f"{number}.parquet",
            )
    (folder / "0-empty.csv").write_text("")
    write_csv(folder / "header-only.csv", HEADER, [])
    monkeypatch.setattr(log_scatter, "UNIT_BYTES", 2000)
    found = run(tmp_path / "folder", **{**log, "interactions": str(folder)}, min_rating=4)
    assert found == expected
    assert content(tmp_path / "folder") == rows

    # other blocks and other partitions
    monkeypatch.setattr(log_scatter, "BLOCK_BYTES", 500)
    monkeypatch.setattr(log_plan, "PARTITION_BYTES", 600)
    assert (
        log_plan.partitions(log_plan.find_source(build({"data": {"sample": "none", **log}}).data, "").interactions) > 4
    )
    found = run(tmp_path / "blocks", **log, min_rating=4)
    assert found == expected
    assert content(tmp_path / "blocks") == rows


def test_protocol_hash_follows_what_defines_the_test_rows(tmp_path, log):
    base = run(tmp_path / "a", **log)
    assert run(tmp_path / "a", **log) == base
    changes = ({"seed": 1}, {"history": 3}, {"min_rating": 4}, {"split": "last_two"}, {"candidates": 5})
    for changed in (*changes, {"repeats": "keep"}):
        other = run(tmp_path / "b", **{**log, **changed})
        assert other["protocol"] != base["protocol"]
        assert other["dataset"] == base["dataset"]


def test_columns_by_name_unknown_items_duplicates_and_dates(tmp_path):
    def day(number):
        return f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}T10:00:00Z"

    rows = [(u, i, day(t)) for t, (u, i) in enumerate((u, i) for i in range(10) for u in (1, 2, 3))]
    rows += [(1, 0, day(40)), (2, 999, day(41))]
    settings = {
        "interactions": write_csv(tmp_path / "ratings.tsv", ("userId", "movieId", "when"), rows, delimiter="\t"),
        "items": write_csv(tmp_path / "movies.csv", ("movieId", "name"), [(i, f"Movie, {i}") for i in range(20)]),
        "columns": {"user": "userId", "item": "movieId", "time": "when", "title": "name"},
    }
    info = run(tmp_path / "out", **settings)
    # 30 kept: 24 | 3 | 3; each user's first interaction is no target
    assert info["counts"] == {
        "dropped": dict.fromkeys(KINDS, 0),
        "interactions": 32,
        "unknown_items": 1,
        "left_out": dict.fromkeys(("window", "users", "max_per_user", "rare"), 0),
        "duplicates": 1,
        "filtered": 0,
        "kept": 30,
        "users": 3,
        "items": 20,
        **NO_ITEMS_DROPPED,
        "examples": {"train": 21, "validation": 3, "test": 3},
    }
    assert content(tmp_path / "out")["items"][2]["title"] == "Movie, 10"


def test_a_part_of_the_log_is_chosen(tmp_path, log):
    """Window, a robot left out and the k-core against plain Python."""
    rows = [*events(), *(("robot", f"i{i}", 5, 1000 + i) for i in range(40))]
    path = write_csv(tmp_path / "more.csv", HEADER, rows)
    chosen = {"since": 1010, "until": 1170, "max_per_user": 20, "min_user": 6, "min_item": 2, "min_rating": 4}
    info = run(tmp_path / "out", **{**log, "interactions": path}, **chosen)
    inside = [row for row in rows if 1010 <= row[3] < 1170]
    calm = [row for row in inside if sum(other[0] == row[0] for other in inside) <= 20]
    left, before = calm, []
    while left != before:
        before = left
        for place, least in ((0, 6), (1, 2)):
            kept = [row[place] for row in left if row[2] >= 4]
            left = [row for row in left if kept.count(row[place]) >= least]
    assert info["counts"]["left_out"] == {
        "window": len(rows) - len(inside),
        "users": 0,
        "max_per_user": len(inside) - len(calm),
        "rare": len(calm) - len(left),
    }
    assert all(info["counts"]["left_out"][name] for name in ("window", "max_per_user", "rare"))
    assert info["counts"]["kept"] == sum(row[2] >= 4 for row in left) > 0
    found = content(tmp_path / "out")
    assert {row["item_id"] for row in found["items"]} == {row[1] for row in left}
    assert {row["user_id"]: set(row["whole"]) for row in found["taken"]} == {
        user: {row[1] for row in left if row[0] == user} for user in {row[0] for row in left}
    }
    assert all(row["title"] == f"Title {int(row['item_id'][1:]) % 30}, The" for row in found["items"])


def test_a_sample_of_the_users_is_fixed_by_the_protocols_seed(tmp_path, log):
    whole = run(tmp_path / "whole", **log)
    users = set()
    for share in (0.4, 0.8):
        info = run(tmp_path / str(share), **log, users=share)
        found = {row["user_id"] for row in content(tmp_path / str(share))["taken"]}
        assert users < found
        users = found
        assert info["counts"]["left_out"]["users"] == 15 * (12 - len(found))
        assert info["protocol"] != whole["protocol"]


def test_a_user_with_much_of_the_log_is_named(tmp_path, log, caplog):
    rows = [(f"u{u}", f"i{u % 5 + n}", 5, 10 * u + n) for u in range(200) for n in range(3)]
    rows += [("robot", f"i{i}", 5, i) for i in range(36)]
    path = write_csv(tmp_path / "log.csv", HEADER, rows)
    run(tmp_path / "out", **{**log, "interactions": path})
    assert "user 'robot' has 36 of the 636 interactions (6 %)" in caplog.text
    caplog.clear()
    run(tmp_path / "out", **{**log, "interactions": path}, max_per_user=30)
    assert "has" not in caplog.text


def test_an_order_without_time(tmp_path, log):
    rows = [row[:2] for row in events()]
    path = write_csv(tmp_path / "order.csv", HEADER[:2], rows)
    info = run(tmp_path / "out", **{**log, "interactions": path}, columns={"time": None})
    assert info["split"] == "last_two"
    assert info["counts"]["examples"] == {"train": 12 * 12, "validation": 12, "test": 12}
    timed = run(tmp_path / "timed", **log, split="last_two")
    assert content(tmp_path / "out") == content(tmp_path / "timed")
    assert timed["protocol"] == info["protocol"]


BAD = {
    "time": (
        {"log": [("u", "i1", 5, 1), ("u", "i2", 5, "soon"), ("u", "i3", 5, "")]},
        r"2 of 3 rows .* data row 2 of .*'soon'",
    ),
    "column": ({"columns": {"user": "who"}}, r"log.csv has no column 'who', it has user_id, .*--data.columns.user"),
    "no rows": ({"log": []}, "holds no interactions"),
    "no item": ({"log": [("u", "x", 5, 1), ("u", "y", 5, 2)]}, "none of the 2 interactions names an item"),
    "single": ({"log": [("u", "i1", 5, 1), ("v", "i2", 5, 2)]}, "no user of the log has two items"),
    "filter": ({"min_rating": 6}, r"no user .* 0 of them rated 6 or more.*--data.min_rating"),
    "few items": ({"candidates": 50}, r"41 items, too few for candidate sets of 50.*--data.candidates"),
    "split": (
        {"log": [("u", "i1", 5, 1), ("u", "i2", 5, 2)]},
        r"2 interactions by time leaves the validation split.*last_two",
    ),
    "one time": ({"log": [(u, i, 5, 1) for u in "uv" for i in ("i1", "i2", "i3")]}, "all 6 .* one and the same time"),
    "mixed": (
        {"log": [("u", "i1", 5, 1), ("u", "i2", 5, "2020-01-01")]},
        "some times of the log are numbers and others",
    ),
    "room": ({"candidates": 28}, r"user 'u\d+' took 15 of the 41 items.*--data.candidates to 27"),
    "window": ({"since": 5, "until": 5}, r"data\.since 5 does not come before data\.until 5"),
    "clock": ({"since": "2020-01-01"}, r"data\.since is a date, but the times of the log are numbers"),
    "rare": ({"min_item": 13}, r"data\.min_item 13 leave 0 items, too few for candidate sets of 4"),
    "seldom": ({"min_user": 16}, r"no user of the log has two items .*, 180 left out by other settings"),
    "unordered": ({"columns": {"time": None}, "split": "time"}, "data.columns.time is null"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, log, name):
    settings, said = BAD[name]
    settings = {**log, **settings}
    if (rows := settings.pop("log", None)) is not None:
        settings["interactions"] = write_csv(tmp_path / "log.csv", HEADER, rows)
    with pytest.raises(BadInput, match=said) as caught:
        run(tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").rglob("*")) == []  # nor folders or partial files


def test_columns_beside_a_sample_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no effect with data\.sample"):
        data.start(build({"data": {"columns": {"user": "x"}}}), {}, str(tmp_path))
