"""Real files are never clean: each quirk through the whole data stage, by settings alone."""

import csv
import gzip
import json
import random
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from rosepo_ray import storage
from rosepo_ray.data.protocol import user_log
from rosepo_ray.data.reading.interactions import KINDS
from rosepo_ray.data.reading.items import KINDS as ITEM_KINDS
from rosepo_ray.errors import BadInput
from rosepo_ray.run.sources import build
from rosepo_ray.stages.data import data
from rosepo_ray.storage import schemas, tables
from tests.random_logs import expected, logs, write

pytestmark = pytest.mark.usefixtures("ray_cluster")

TABLES = ("items", "sequences", "taken", "examples", "dropped")
NONE_DROPPED = dict.fromkeys(KINDS, 0)
NO_ITEMS_DROPPED = {"dropped_items": dict.fromkeys(ITEM_KINDS, 0), "repeated_items": 0}


def run(out, **values):
    return data.start(build({"data": {"sample": "none", "candidates": 3, **values}}), {}, str(out))


def left(out):
    """All that a run left behind, also folders and partial files."""
    return list(out.rglob("*"))


def read(out, name):
    return tables.read(str(out), name).to_pylist()


def write_csv(path, header, rows, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **options).writerows([header, *rows])
    return str(path)


def walks(users=8, items=24, each=8, seed=0):
    """(user, item) numbers, one interaction after the other in time."""
    rng = random.Random(seed)
    rows = [(u, i) for u in range(users) for i in rng.sample(range(items), each)]
    rng.shuffle(rows)
    return rows


def item_file(path, items=24, **options):
    return write_csv(path, ("item_id", "title"), [(i, f"Title {i}") for i in range(items)], **options)


def test_bad_rows_are_dropped_counted_and_listed(tmp_path):
    header = ["user_id,item_id,timestamp,rating"]
    good = [f"{u},{i},{t},3" for t, (u, i) in enumerate(walks())]
    folder = tmp_path / "log"
    folder.mkdir()
    lines = [*header, *good[:20], "1,2", "1,,5,3", "", '"x\ny",2,soon,3', *good[20:40], "1,2,3,4,5"]
    (folder / "a.csv").write_text("\r\n".join(lines))
    (folder / "b.tsv").write_text("\n".join([*header, *good[40:], ",2,5,3", "1,2,5,good"]).replace(",", "\t"))
    (folder / "c.jsonl").write_text('{"user_id": 1, "item_id": 2\n')
    found = {"interactions": str(folder), "items": item_file(tmp_path / "items.csv")}
    with pytest.raises(
        BadInput, match=r"7 of 71 rows .* data row 21 of .*a\.csv, which has 2 fields .* drop"
    ) as caught:
        run(tmp_path / "out", **found)
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "out") == []

    info = run(tmp_path / "out", **found, on_bad_row="drop")
    assert info["counts"]["dropped"] == {"fields": 2, "json": 1, "user": 1, "item": 1, "time": 1, "rating": 1}
    assert info["counts"]["interactions"] == info["counts"]["kept"] == 64
    table = tables.read(str(tmp_path / "out"), "dropped")
    assert table.schema.equals(schemas.SCHEMAS["dropped"])
    assert {(row["file"].rsplit("/", 1)[1], row["row"]): row["reason"][:27] for row in table.to_pylist()} == {
        ("a.csv", 21): "has 2 fields where the head",
        ("a.csv", 22): "has no item id",
        ("a.csv", 23): "has a time that is neither ",
        ("a.csv", 44): "has 5 fields where the head",
        ("b.tsv", 25): "has no user id",
        ("b.tsv", 26): "has a rating that is no num",
        ("c.jsonl", 1): "is not JSON: Expecting ',' ",
    }
    # as if they had never been there
    clean = write_csv(tmp_path / "clean" / "x.csv", header[0].split(","), [line.split(",") for line in good[:40]])
    write_csv(tmp_path / "clean" / "y.csv", header[0].split(","), [line.split(",") for line in good[40:]])
    again = run(tmp_path / "again", **{**found, "interactions": clean.rsplit("/", 1)[0]})
    assert (again["dataset"], again["protocol"]) == (info["dataset"], info["protocol"])
    assert not storage.exists(str(tmp_path / "again" / "dropped"))


def test_nothing_left_after_dropping(tmp_path):
    path = write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), [(1, 2, "x"), (1, 3, "y")])
    with pytest.raises(BadInput, match=r"2 of 2 rows of the log cannot be used; the first is data row 1 .*'x'"):
        run(tmp_path / "out", interactions=path, items=item_file(tmp_path / "items.csv"), on_bad_row="drop")
    assert left(tmp_path / "out") == []


def test_unknown_items_refused(tmp_path):
    rows = [(u, i, t) for t, (u, i) in enumerate(walks())]
    rows[10:10] = [(1, "lost", 10), (1, "gone", 10)]
    path = write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), rows)
    found = {"interactions": path, "items": item_file(tmp_path / "items.csv")}
    said = r"2 of 66 interactions name an item .* row 11 of .*log\.csv, which names item 'lost'; .*on_unknown_item drop"
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", **found, on_unknown_item="fail")
    assert left(tmp_path / "out") == []
    info = run(tmp_path / "out", **found)
    assert info["counts"]["unknown_items"] == 2
    clean = [(u, i, t) for t, (u, i) in enumerate(walks())]
    found["interactions"] = write_csv(tmp_path / "clean.csv", ("user_id", "item_id", "timestamp"), clean)
    assert run(tmp_path / "out", **found, on_unknown_item="fail")["protocol"] == info["protocol"]


def test_latin_1(tmp_path):
    rows = [(f"José{u}", f"é{i}", t) for t, (u, i) in enumerate(walks())]
    items = [(f"é{i}", f"Café, {i}") for i in range(24)]
    log, header = tmp_path / "log.csv", ("user_id", "item_id", "timestamp")
    found = {"interactions": str(log), "items": str(tmp_path / "items.csv")}
    write_csv(log, header, rows, encoding="latin-1")
    write_csv(tmp_path / "items.csv", ("item_id", "title"), items, encoding="latin-1")
    info = run(tmp_path / "out", **found, encoding="latin-1")
    assert read(tmp_path / "out", "items")[0]["title"] == "Café, 0"
    write_csv(tmp_path / "items.csv", ("item_id", "title"), items)
    with pytest.raises(BadInput, match=r"log\.csv is not UTF-8 text .*--data\.encoding"):
        run(tmp_path / "utf", **found)
    write_csv(log, header, rows)
    assert run(tmp_path / "utf", **found) == info


def test_an_encoding_without_effect(tmp_path):
    for name in ("log", "items"):
        pq.write_table(pa.table({"user_id": [1], "item_id": [1], "title": ["x"]}), tmp_path / f"{name}.parquet")
    found = {name: str(tmp_path / f"{file}.parquet") for name, file in (("interactions", "log"), ("items", "items"))}
    with pytest.raises(BadInput, match=r"data\.encoding cp1252 has no effect"):
        run(tmp_path / "out", **found, encoding="cp1252")
    with pytest.raises(BadInput, match=r"data\.encoding has no effect with data\.sample"):
        data.start(build({"data": {"encoding": "cp1252"}}), {}, str(tmp_path / "out"))


def test_clocks_and_id_types_do_not_matter(tmp_path):
    """Epoch seconds in Parquet with numeric ids, milliseconds in JSON, dates in a gzipped CSV: the same tables."""
    rows = [(u, i, t) for t, (u, i) in enumerate(walks())]
    table = pa.table({"user_id": [r[0] for r in rows], "item_id": [float(r[1]) for r in rows]})
    pq.write_table(
        table.append_column("timestamp", pa.array([1_600_000_000 + t for *_, t in rows])), tmp_path / "log.parquet"
    )
    lines = [
        json.dumps({"user_id": str(u), "item_id": i if t % 2 else str(i), "timestamp": 1_600_000_000_000 + t})
        for u, i, t in rows
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    begin = datetime(2024, 2, 28, 23, 59, 30, tzinfo=UTC)
    dated = [f" {u} ,{i}.0,{(begin + timedelta(seconds=t)).isoformat()}" for u, i, t in rows]
    text = "\ufeff" + "\r\n".join(["user_id,item_id,timestamp", *dated])
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(
        pa.table({"item_id": range(24), "title": [f"Title {i}" for i in range(24)]}), tmp_path / "items.parquet"
    )
    seen = []
    for log, items in (("log.parquet", item_file(tmp_path / "items.csv")), ("log.jsonl", None), ("log.csv.gz", None)):
        out = tmp_path / log.replace(".", "-")
        found = {"interactions": str(tmp_path / log), "items": items or str(tmp_path / "items.parquet")}
        info = run(out, **found)
        seen.append((info["counts"], info["protocol"], *(read(out, name) for name in TABLES)))
    assert seen[0][0]["kept"] == 64
    assert seen[0] == seen[1] == seen[2]


def test_a_folder_of_many_small_files(tmp_path):
    """300 files, every third of zero bytes or with nothing but a header."""
    header = ("user_id", "item_id", "timestamp")
    rows = [(u, i, t) for t, (u, i) in enumerate(walks(users=25))]
    for number in range(300):
        path = tmp_path / "log" / f"{number:03d}.csv"
        if number % 3 == 2:
            path.write_text("" if number % 2 else "user_id,item_id,timestamp")
        else:
            write_csv(path, header, [rows[number // 3 * 2 + number % 3]])
    found = {"items": item_file(tmp_path / "items.csv")}
    info = run(tmp_path / "many", **found, interactions=str(tmp_path / "log"))
    assert info["counts"]["interactions"] == 200
    whole = write_csv(tmp_path / "whole.csv", header, rows)  # times are distinct: no tie to break by row
    one = run(tmp_path / "one", **found, interactions=whole)
    assert info == one


def test_titles_and_rare_users_and_items(tmp_path):
    titles = ["x" * 10_000, "🎬 🍿", "שלום", "NULL", "  Heat  ", "Same", "Same", 'a, "b"\nc', "never taken"]
    rows = [(u, i, 8 * u + i) for u in range(4) for i in range(8)] + [("single", 0, 9), ("NULL", 1, 5), ("NULL", 2, 6)]
    rows += rows[:5]  # duplicates
    found = {
        "interactions": write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), rows),
        "items": write_csv(tmp_path / "items.csv", ("item_id", "title"), list(enumerate(titles))),
    }
    info = run(tmp_path / "out", **found, candidates=2, missing_ids=[])
    assert info["counts"] | {"examples": None} == {
        "dropped": NONE_DROPPED,
        "interactions": 40,
        "unknown_items": 0,
        "left_out": dict.fromkeys(("window", "users", "max_per_user", "rare"), 0),
        "duplicates": 5,
        "filtered": 0,
        "kept": 35,
        "users": 6,
        "items": 9,
        **NO_ITEMS_DROPPED,
        "examples": None,
    }
    items = read(tmp_path / "out", "items")
    assert [row["title"] for row in items] == [title.strip() for title in titles]
    assert items[8]["popularity"] == 0
    assert sum(row["popularity"] for row in items) == 28  # eight tenths of 35
    taken = {row["user_id"]: row for row in read(tmp_path / "out", "taken")}
    assert taken["single"]["whole"] == ["0"]
    assert taken["NULL"]["whole"] == ["1", "2"]
    judged = [row["user_id"] for row in read(tmp_path / "out", "examples")]
    assert "single" not in judged
    assert judged.count("NULL") == 1


def test_movielens_style_files(tmp_path):
    rows = [(u + 1, i + 1, 0.5 * (1 + (u + i) % 10), 964_980_000 + t) for t, (u, i) in enumerate(walks())]
    movies = [
        (i + 1, f'Movie {i + 1}, The "cut" (1995)', "Action|Drama" if i else "(no genres listed)") for i in range(24)
    ]
    info = run(
        tmp_path / "out",
        interactions=write_csv(tmp_path / "ratings.csv", ("userId", "movieId", "rating", "timestamp"), rows),
        items=write_csv(tmp_path / "movies.csv", ("movieId", "title", "genres"), movies),
        columns={"user": "userId", "item": "movieId"},
        min_rating=3,
    )
    kept = sum(rating >= 3 for _, _, rating, _ in rows)
    assert (info["counts"]["kept"], info["counts"]["filtered"], info["split"]) == (kept, 64 - kept, "time")
    items = {row["item_id"]: row for row in read(tmp_path / "out", "items")}
    assert items["2"]["title"] == 'Movie 2, The "cut" (1995)'
    assert (items["1"]["genres"], items["2"]["genres"]) == (["(no genres listed)"], ["Action", "Drama"])


def test_listening_sequences_without_a_time(tmp_path):
    """Sequences as LastFM's: users one after the other, a position instead of a time, artists' names as titles."""
    names = [
        "Morcheeba",
        "Enigma",
        "Café Del Mar",
        "Sigur Rós",
        "!!!",
        "2raumwohnung",
        "菅野よう子",
        "AC/DC",
        "a, b",
        "Été",
    ]
    rng = random.Random(4)
    rows = [(f"u{u}", f"a{i}", p) for u in range(9) for p, i in enumerate(rng.sample(range(10), 3 + u % 4))]
    found = {
        "interactions": write_csv(tmp_path / "interactions.csv", ("user_id", "item_id", "timestamp"), rows),
        "items": write_csv(tmp_path / "items.csv", ("item_id", "title"), [(f"a{i}", n) for i, n in enumerate(names)]),
    }
    info = run(tmp_path / "order", **found, columns={"time": None})
    assert info["split"] == "last_two"
    assert info["counts"]["examples"] == {"train": len(rows) - 3 * 9, "validation": 9, "test": 9}
    sequences = {row["user_id"]: row["items"] for row in read(tmp_path / "order", "sequences")}
    assert sequences == {f"u{u}": [i for v, i, _ in rows if v == f"u{u}"][:-2] for u in range(9)}
    # the position orders a user's rows as well as their place in the file
    positions = run(tmp_path / "positions", **found, split="last_two")
    assert positions["protocol"] == info["protocol"]


def parquet_bytes(tmp_path):
    table = pa.table({"user_id": range(5000), "item_id": range(5000), "timestamp": range(5000)})
    pq.write_table(table, tmp_path / "whole.parquet", compression="none")
    return (tmp_path / "whole.parquet").read_bytes()


HEADER = "user_id,item_id,timestamp\n"
DAMAGED = {
    "no file": ("absent.csv", None, r"there is no file at '.*absent\.csv'; give --data\.interactions"),
    "no folder": ("absent/*.csv", None, r"there is no file at"),
    "zero bytes": ("log.csv", b"", r"log\.csv' .* holds no rows"),
    "header": ("log.csv", HEADER.encode(), r"log\.csv holds no interactions"),
    "header alone": ("log.csv", HEADER.strip().encode(), r"log\.csv holds no interactions"),
    "parquet that is text": ("log.parquet", HEADER.encode(), r"log\.parquet is not readable as parquet"),
    "parquet cut short": ("log.parquet", "cut", r"log\.parquet is not readable as parquet"),
    "parquet overwritten": ("log.parquet", "overwritten", r"log\.parquet (is not readable as parquet|cannot be read)"),
    "parquet folder": ("log.parquet", "folder", r"there is no file at '.*log\.parquet'"),
    "unknown format": ("log.xlsx", b"PK", r"no file of a known format"),
    "open quote": (
        "log.csv",
        HEADER.encode() + b'1,1,1\n1,2,"3\n1,4,5\n',
        r"1 of 3 rows .* data row 2 of .*log\.csv, which opens a quote that is never closed",
    ),
    "nested": (
        "log.jsonl",
        b'{"user_id": [1], "item_id": 2, "timestamp": 1}\n',
        r"has a 'user_id' that is neither text",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_logs(tmp_path, name):
    file, content, said = DAMAGED[name]
    whole = parquet_bytes(tmp_path)
    if content == "cut":
        (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    elif content == "overwritten":
        (tmp_path / file).write_bytes(whole[:8] + b"\xff" * 3000 + whole[3008:])
    elif content == "folder":
        (tmp_path / file).mkdir()
    elif content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BadInput, match=said) as caught:
        run(tmp_path / "out", interactions=str(tmp_path / file), items=item_file(tmp_path / "items.csv"))
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "out") == []


ITEMS = {
    "untitled": ("item_id,title\n1,A\n2,\n", r"1 of 2 items .* data row 2 of .*items\.csv, which has no title"),
    "doubled": (
        "item_id,title\n1,A\n1.0,B\n2,C\n",
        r"1 of 3 items .* data row 2 of .*items\.csv, which calls item '1' 'B', which was 'A'",
    ),
    "column": ("item_id,name\n1,A\n", r"items\.csv has no column 'title', it has item_id, name"),
    "fields": ("item_id,title\n1,A, The\n", r"data row 1 of .*items\.csv, which has 3 fields"),
    "empty": ("item_id,title\n", r"items\.csv holds no items"),
    "few": ("item_id,title\n1,A\n2,B\n", r"the items file has 2 items, too few for candidate sets of 3"),
}


@pytest.mark.parametrize("name", ITEMS)
def test_bad_items(tmp_path, name):
    text, said = ITEMS[name]
    (tmp_path / "items.csv").write_text(text)
    (tmp_path / "log.csv").write_text(HEADER + "1,1,1\n1,2,2\n")
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"))
    assert left(tmp_path / "out") == []


def test_no_user_long_enough_for_last_two(tmp_path):
    path = write_csv(tmp_path / "log.csv", ("user_id", "item_id"), [(1, 1), (1, 2), (2, 3), (2, 4)])
    with pytest.raises(BadInput, match=r"the validation split has no example \(4 interactions of 2 users\)"):
        run(tmp_path / "out", interactions=path, items=item_file(tmp_path / "items.csv"), columns={"time": None})
    assert left(tmp_path / "out") == []


def test_nothing_is_written_behind_an_error(tmp_path):
    """The first file ends the run while tasks still read and write the others."""
    for number in range(6):
        rows = [(u, i, t) for t, (u, i) in enumerate(walks(users=2_000, seed=number))]
        write_csv(tmp_path / "log" / f"{number}.csv", ("user_id", "item_id", "timestamp"), rows)
    (tmp_path / "log" / "00.csv").write_text("user,item\n1,2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rosepo_ray.on_ray.log_scatter.UNIT_BYTES", 1000)
        with pytest.raises(BadInput, match=r"00\.csv has no column 'user_id'"):
            run(tmp_path / "out", interactions=str(tmp_path / "log"), items=item_file(tmp_path / "items.csv"))
    assert left(tmp_path / "out") == []
    time.sleep(3)
    assert left(tmp_path / "out") == []


def test_nothing_is_written_behind_an_error_of_one_partition(tmp_path):
    """The first partition ends the run while the others build their much larger tables."""
    greedy, *users = sorted((f"u{n}" for n in range(20_000)), key=lambda u: place(u) > 0)
    rows = [(greedy, i, i) for i in range(23)]
    rows += [(u, i, 100 + n) for n, u in enumerate(users) if place(u) > 0 for i in range(n % 5, 12)]
    path = write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), rows)
    with pytest.raises(BadInput, match=rf"user '{greedy}' took 23 of the 24 items"):
        run(tmp_path / "out", interactions=path, items=item_file(tmp_path / "items.csv"))
    assert left(tmp_path / "out") == []
    time.sleep(2)
    assert left(tmp_path / "out") == []


def place(user):
    return int(user_log.partition_of(pa.array([user]), 4)[0])


@pytest.mark.parametrize("neighbour", ["header.csv", "header.csv.gz", "broken.csv"])
def test_files_without_rows_leave_a_log_one_file(tmp_path, neighbour):
    """Equal times are then ordered by the place in the file, and a log without times has an order."""
    rows = [(u, i, t // 3) for t, (u, i) in enumerate(walks())]
    alone = write_csv(tmp_path / "alone.csv", ("user_id", "item_id", "timestamp"), rows)
    write_csv(tmp_path / "log" / "a.csv", ("user_id", "item_id", "timestamp"), rows)
    text = HEADER + ("1\n" if neighbour == "broken.csv" else "")
    (tmp_path / "log" / neighbour).write_bytes(
        gzip.compress(text.encode()) if neighbour.endswith("gz") else text.encode()
    )
    items = item_file(tmp_path / "items.csv")
    for name, more in (("timed", {}), ("untimed", {"columns": {"time": None}})):
        one = run(tmp_path / f"{name}-one", interactions=alone, items=items, **more)
        two = run(tmp_path / name, interactions=str(tmp_path / "log"), items=items, on_bad_row="drop", **more)
        assert (two["dataset"], two["protocol"]) == (one["dataset"], one["protocol"])


def test_files_without_a_header_and_a_time_format(tmp_path):
    """MovieLens' `::`, positions instead of names, and times as Americans write them: the same tables."""
    begin = datetime(2019, 11, 15, 21, 36, 28, tzinfo=UTC)
    rows = [(u, i, begin + timedelta(hours=t)) for t, (u, i) in enumerate(walks())]
    named = [(u, i, when.isoformat()) for u, i, when in rows]
    plain = write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), named)
    one = run(tmp_path / "one", interactions=plain, items=item_file(tmp_path / "items.csv"))
    (tmp_path / "log.dat").write_text("".join(f"{u}::{i}::{when:%m/%d/%Y %I:%M:%S %p}\n" for u, i, when in rows))
    (tmp_path / "items.dat").write_text("".join(f"{i}|Title {i}\n" for i in range(24)))
    two = run(
        tmp_path / "two",
        interactions=str(tmp_path / "log.dat"),
        items=str(tmp_path / "items.dat"),
        columns={"user": 1, "item": 2, "time": 3, "catalogue_item": 1, "title": 2},
        format={"separator": "::", "header": False},
        items_format={"separator": "|", "header": False},
        time_format="%m/%d/%Y %I:%M:%S %p",
    )
    assert two == one


def test_days_in_folders(tmp_path):
    rows = [(u, i, f"2020-01-{1 + t // 4:02d}") for t, (u, i) in enumerate(walks())]
    header = ("user_id", "item_id", "day")
    for day in {row[2] for row in rows}:
        folder = tmp_path / "user_id=9" / "log" / f"day={day}"
        write_csv(folder / "a.csv", header[:2], [row[:2] for row in rows if row[2] == day])
    found = {"items": item_file(tmp_path / "items.csv"), "columns": {"time": "day"}}
    many = run(tmp_path / "many", **found, interactions=str(tmp_path / "user_id=9" / "log"))
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        write_csv(tmp_path / "two" / f"{number}.csv", header, part)
    assert run(tmp_path / "out", **found, interactions=str(tmp_path / "two")) == many


def test_bad_items_are_dropped_counted_and_listed(tmp_path):
    rows = [(u, i, t) for t, (u, i) in enumerate(walks())]
    items = [(i, "" if i == 5 else f"Title {i}") for i in range(24)] + [(7, "Title 7"), (8, "Another")]
    found = {
        "interactions": write_csv(tmp_path / "log.csv", ("user_id", "item_id", "timestamp"), rows),
        "items": write_csv(tmp_path / "items.csv", ("item_id", "title"), items),
    }
    info = run(tmp_path / "out", **found, on_bad_item="drop")
    assert info["counts"]["dropped_items"] == {"fields": 0, "json": 0, "item": 0, "title": 1, "twice": 1}
    assert (info["counts"]["items"], info["counts"]["repeated_items"]) == (23, 1)
    assert info["counts"]["unknown_items"] == sum(i == 5 for _, i, _ in rows)
    assert [(row["row"], row["reason"]) for row in read(tmp_path / "out", "dropped")] == [
        (6, "has no title (item '5')"),
        (26, "calls item '8' 'Another', which was 'Title 8'"),
    ]


def test_two_clocks_and_one_time_for_all(tmp_path, caplog):
    rows = [(u, i, 1_600_000_000 + t) for t, (u, i) in enumerate(walks())]
    header, items = ("user_id", "item_id", "timestamp"), item_file(tmp_path / "items.csv")
    mixed = [(u, i, t * 1000 if u % 2 else t) for u, i, t in rows]
    path = write_csv(tmp_path / "mixed.csv", header, mixed)
    with pytest.raises(BadInput, match=r"are seconds \(such as 16\d{8}\) and others milliseconds \(such as 16\d{11}\)"):
        run(tmp_path / "out", interactions=path, items=items)
    assert left(tmp_path / "out") == []
    path = write_csv(tmp_path / "zero.csv", header, [(u, i, 0) for u, i, _ in rows])
    with caplog.at_level("WARNING", logger="rosepo_ray"):
        run(tmp_path / "out", interactions=path, items=items, split="last_two")
    assert "all 64 interactions have the same time" in caplog.text


def test_a_format_without_effect(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"user_id": 1, "item_id": 1, "timestamp": 1}\n')
    found = {"interactions": str(tmp_path / "log.jsonl"), "items": item_file(tmp_path / "items.csv")}
    for name, value in (("format", {"separator": ";"}), ("time_format", "%Y")):
        more = {"columns": {"time": None}} if name == "time_format" else {}
        with pytest.raises(BadInput, match=rf"data\.{name} has no effect"):
            run(tmp_path / "out", **found, **more, **{name: value})
        with pytest.raises(BadInput, match=rf"data\.{name} has no effect with data\.sample"):
            data.start(build({"data": {name: value}}), {}, str(tmp_path / "out"))


def test_no_order_across_files_without_a_time(tmp_path):
    for name in ("a", "b"):
        write_csv(tmp_path / "log" / f"{name}.csv", ("user_id", "item_id"), walks())
    with pytest.raises(BadInput, match=r"means 2 files with rows and data\.columns\.time is null"):
        run(
            tmp_path / "out",
            interactions=str(tmp_path / "log"),
            items=item_file(tmp_path / "items.csv"),
            columns={"time": None},
        )
    assert left(tmp_path / "out") == []


@settings(
    deadline=None, max_examples=4, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(case=logs(least=40), seed=st.integers(0, 99), files=st.integers(1, 4))
def test_random_logs(tmp_path_factory, case, seed, files):
    """The stage itself against plain Python; `tests/unit/test_data_properties.py` looks at many more logs."""
    folder = tmp_path_factory.mktemp("random")
    written = write(case, folder / "log", seed, files if case.timed else 1)
    want = expected(case, written)
    assume({split for *_, split in want.examples.values()} == {"train", "validation", "test"})
    assume(all(len(case.items) - len(taken) >= case.candidates - 1 for taken in want.whole.values()))
    uri = next(iter(written.files)) if len(written.files) == 1 else str(written.folder)
    items = write_csv(folder / "items.csv", ("item_id", "title"), [(item, f"Title {item}") for item in case.items])
    values = {**case.data, "interactions": uri, "items": items}
    if not any(path.removesuffix(".gz").endswith("sv") for path in written.files):
        del values["format"]  # without effect there
    info = run(folder / "out", **values)
    assert {name: info["counts"][name] for name in want.counts} == want.counts
    assert info["counts"]["dropped"] == want.kinds
    assert {(row["file"], row["row"]) for row in read(folder / "out", "dropped")} == want.dropped
    assert {row["user_id"]: row["items"] for row in read(folder / "out", "sequences")} == want.sequences
    taken = {row["user_id"]: row for row in read(folder / "out", "taken")}
    assert {user: set(row["training"]) for user, row in taken.items()} == want.training
    assert {user: set(row["whole"]) for user, row in taken.items()} == want.whole
    found = {}
    for row in read(folder / "out", "examples"):
        found[row["example_id"]] = (row["user_id"], row["history"], row["target"], row["split"])
        others = set(row["candidates"]) - {row["target"]}
        assert len(others) == len(row["candidates"]) - 1 == case.candidates - 1
        assert not others & set(taken[row["user_id"]]["training" if row["split"] == "train" else "whole"])
    assert found == want.examples
