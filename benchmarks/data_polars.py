"""The data stage's job as one polars script: what `data_vs_polars.py` compares with.

    python benchmarks/data_polars.py --log LOG_FOLDER --items items.parquet --out OUT --min-rating 3

Same tables, same filters, same split: each user's first interaction with an item counts, those rated too low are no
targets, the kept ones are cut 8:1:1 at two times, every kept interaction but a user's first is an example with up to
HISTORY items and CANDIDATES candidates. Only the random draws differ (polars has no sampling that avoids a user's
items, so NumPy draws them, with one generator for all rows). It holds the log in memory, looks for no malformed rows
and depends on no seed per row, all of which the package does otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

HISTORY, CANDIDATES = 10, 20
ROWS = 1 << 19
"""Examples that are made and written together."""
CELLS = 1 << 25
DRAWS = 1 << 17
"""Examples whose candidates are drawn together: what stays in the processor's cache."""


def ordered(log: str, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """Interactions as numbers, sorted by user and time, the first of each user with each item; and the user ids."""
    rows = pl.scan_parquet(log).select("user_id", "item_id", "timestamp", "rating")
    users = rows.select(pl.col("user_id").unique()).collect(engine="streaming")["user_id"].sort()
    codes = pl.LazyFrame({"user_id": users}).with_row_index("user")
    known = items.lazy().select("item_id").with_row_index("item")
    table = (
        rows.join(codes, on="user_id")
        .join(known, on="item_id")
        .select("user", "item", "timestamp", "rating")
        .sort("user", "timestamp", "item")
        .unique(["user", "item"], keep="first", maintain_order=True)
        .collect()
    )
    return table, users


def cut(times: pl.Series, rank: int) -> int:
    """The time with as near to `rank` of the sorted times before it as equal ones allow."""
    time_ = times[rank]
    below, through = (times.search_sorted(time_, side) for side in ("left", "right"))
    return time_ if rank - below <= through - rank else time_ + 1


def draw(rng: np.random.Generator, user: np.ndarray, banned: np.ndarray, count: int) -> np.ndarray:
    """`count` distinct items per row that `banned[user]` allows, [rows, count]."""
    out = np.empty((len(user), count), np.int32)
    waiting, looked = np.arange(len(user)), count + 5
    while len(waiting):
        drawn = rng.integers(0, banned.shape[1], (len(waiting), looked), dtype=np.int32)
        good = ~banned[user[waiting][:, None], drawn]
        arranged = np.sort(drawn, axis=1)
        again = np.flatnonzero((arranged[:, 1:] == arranged[:, :-1]).any(axis=1))
        for column in range(1, looked):  # only rows with a doubled draw, some per cent of them
            good[again, column] &= (drawn[again, :column] != drawn[again, column : column + 1]).all(axis=1)
        place = np.cumsum(good, axis=1)
        done = place[:, -1] >= count
        good &= (place <= count) & done[:, None]
        out[waiting[done]] = drawn[good].reshape(-1, count)
        waiting, looked = waiting[~done], looked * 2
    return out


def candidates(table: pl.DataFrame, examples: pl.DataFrame, items: int, rng: np.random.Generator) -> np.ndarray:
    """Candidate sets [rows, CANDIDATES] with the target at a random place. Both tables are of the same users."""
    all_user, all_item, early = (table[name].to_numpy() for name in ("user", "item", "early"))
    user, target, train = examples["user"].to_numpy(), examples["item"].to_numpy(), examples["train"].to_numpy()
    others = np.empty((len(user), CANDIDATES - 1), np.int32)
    step = max(1, CELLS // items)
    banned = np.zeros((step, items), bool)
    for first in range(int(user[0]), int(user[-1]) + 1, step):
        mine = slice(*np.searchsorted(all_user, [first, first + step]))
        rows = slice(*np.searchsorted(user, [first, first + step]))
        who, what, soon = all_user[mine] - first, all_item[mine], early[mine]
        for those, group in ((soon, train[rows]), (~soon, ~train[rows])):
            banned[who[those], what[those]] = True
            chosen = np.flatnonzero(group) + rows.start
            for start in range(0, len(chosen), DRAWS):
                piece = chosen[start : start + DRAWS]
                others[piece] = draw(rng, user[piece] - first, banned, CANDIDATES - 1)
        banned[who, what] = False
    slot = rng.integers(0, CANDIDATES, len(user))
    placed = np.empty((len(user), CANDIDATES), np.int32)
    columns = np.arange(CANDIDATES - 1)[None, :]
    np.put_along_axis(placed, columns + (columns >= slot[:, None]), others, axis=1)
    placed[np.arange(len(user)), slot] = target
    return placed


def borders(user: np.ndarray) -> list[int]:
    """Where to cut the sorted rows into pieces of about ROWS, none of them within a user."""
    starts = np.flatnonzero(np.diff(user.astype(np.int64), prepend=-1))
    wanted = np.searchsorted(starts, np.arange(0, len(user), ROWS))
    return sorted({*starts[wanted[wanted < len(starts)]].tolist(), len(user)})


def histories(part: pl.DataFrame, names: pl.Series) -> pl.Series:
    """Of each row the names of up to HISTORY items of the same user before it. Several times faster than a list of
    shifted columns."""
    lengths = np.minimum(part["position"].to_numpy().astype(np.int64), HISTORY)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    window = np.repeat(np.arange(len(part)) - lengths - offsets[:-1], lengths) + np.arange(offsets[-1])
    flat = names.gather(part["item"].gather(pl.Series(window)))
    return pl.Series(pa.LargeListArray.from_arrays(pa.array(offsets), flat.to_arrow()))


def run(log: str, items_file: str, out: Path, min_rating: float | None) -> dict[str, int]:
    items = pl.read_parquet(items_file).sort("item_id")
    names = items["item_id"]
    table, users = ordered(log, items)
    if min_rating is not None:
        table = table.with_columns(kept=pl.col("rating") >= min_rating)
    else:
        table = table.with_columns(kept=pl.lit(True))
    times = table.lazy().filter("kept").select("timestamp").collect()["timestamp"].sort()
    before = [pl.col("timestamp") < cut(times, len(times) * share // 10) for share in (8, 9)]
    split = pl.when(before[0]).then(0).when(before[1]).then(1).otherwise(2)
    seen = pl.int_range(pl.len(), dtype=pl.Int32).over("user")
    table = table.with_columns(early=before[0], split=split.cast(pl.UInt8), seen=seen)
    for name in ("items", "sequences", "taken", "examples"):
        (out / name).mkdir(parents=True, exist_ok=True)
    named = names.gather

    kept_table = table.filter("kept").with_columns(
        position=pl.int_range(pl.len(), dtype=pl.UInt32).over("user"), train=pl.col("split") == 0
    )
    rng, made = np.random.default_rng(0), 0
    for number, (first, last) in enumerate(pairwise(borders(kept_table["user"].to_numpy()))):
        part = kept_table[first:last]
        rows = part.with_columns(item_id=named(part["item"]), history=histories(part, names))
        rows = rows.filter(pl.col("position") > 0)
        low, high = int(part["user"][0]), int(part["user"][-1])
        span = slice(*np.searchsorted(table["user"].to_numpy(), [low, high + 1]))
        placed = candidates(table[span], rows, len(items), rng)
        sets = named(pl.Series(placed.reshape(-1))).reshape((len(rows), CANDIDATES)).arr.to_list()
        user_id = users.gather(rows["user"])
        rows.select(
            example_id=pl.concat_str(user_id, pl.lit(":"), pl.col("position")),
            user_id=user_id,
            history="history",
            target="item_id",
            candidates=sets,
            split=pl.Series(["train", "validation", "test"]).gather(rows["split"]),
            seen="seen",
        ).write_parquet(out / f"examples/part-{number:05d}.parquet", compression="zstd")
        made += len(rows)

    def lists(rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
        return rows.group_by("user", maintain_order=True).agg(pl.col("item_id").alias(name))

    text = table.lazy().with_columns(item_id=named(table["item"]))
    sequences = lists(text.filter(pl.col("kept") & (pl.col("split") == 0)), "items").collect()
    sequences.select(user_id=users.gather(sequences["user"]), items="items").write_parquet(
        out / "sequences/part-00000.parquet", compression="zstd"
    )
    taken = lists(text, "whole").join(lists(text.filter("early"), "training"), on="user", how="left").collect()
    taken.select(user_id=users.gather(taken["user"]), training="training", whole="whole").write_parquet(
        out / "taken/part-00000.parquet", compression="zstd"
    )
    popularity = np.bincount(kept_table.filter("train")["item"].to_numpy(), minlength=len(items))
    items.with_columns(popularity=pl.Series(popularity)).write_parquet(
        out / "items/part-00000.parquet", compression="zstd"
    )
    return {"examples": made, "sequences": len(sequences), "taken": len(taken), "kept": len(kept_table)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--min-rating", type=float)
    given = parser.parse_args()
    began = time.perf_counter()
    counts = run(given.log, given.items, given.out, given.min_rating)
    print(json.dumps({"seconds": time.perf_counter() - began, **counts}))


if __name__ == "__main__":
    main()
