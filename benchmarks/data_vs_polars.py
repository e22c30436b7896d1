"""The data stage against one polars script that does the same job, on a synthetic log.

    python benchmarks/data_vs_polars.py
    python benchmarks/data_vs_polars.py --quick

Needs polars, which the package itself does not. Both sides read the same Parquet files (of `data_scale.py`), may use
every core, and write the same tables; the script ends with an error unless these have the same examples, but for the
randomly drawn candidates. What the polars script leaves out is said in `data_polars.py`.

`data_vs_polars` compares the stage on a running cluster with the script's own time; `data_vs_polars_with_start` counts
starting Python and Ray on the one side, Python and polars on the other. Sides run in turn, --rounds times.

`--quick` takes a million rows. Its result has another name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from data_scale import write_log
from harness import Figure, Promise, figure, need, write

ROOT = Path(__file__).parents[1]
ITEMS = 20_000
MIN_RATING = 3.0
GOAL = Promise(goal=2.0, lower_is_better=True)
TABLES = ("items", "sequences", "taken", "examples")


def stage(recipe: Path, out: Path) -> dict[str, float]:
    """The stage as a process of its own: seconds of starting the cluster, of the stage on it, and of all."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--stage", str(recipe), "--out", str(out)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(answer.stdout.splitlines()[-1]) | {"all": time.perf_counter() - began}


def run_stage(recipe: Path, out: Path) -> dict[str, float]:
    """In the process that :func:`stage` starts."""
    from rosepo_ray.on_ray import cluster
    from rosepo_ray.run.settings import Settings

    values = yaml.safe_load(recipe.read_text())
    settings = Settings.model_validate({"data": values["data"] | {"min_rating": MIN_RATING}})
    began = time.perf_counter()
    cluster.start(settings.cluster, settings.oracle.served)
    started = time.perf_counter()
    try:
        from rosepo_ray.stages.data import data

        data.start(settings, {}, str(out))
        return {"start": started - began, "seconds": time.perf_counter() - started}
    finally:
        cluster.stop()


def script(folder: Path, out: Path) -> dict[str, float]:
    """The polars script: its own seconds, and those of its process."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks/data_polars.py"), "--log", str(folder / "log/*.parquet")]
    command += ["--items", str(folder / "items.parquet"), "--out", str(out), "--min-rating", str(MIN_RATING)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"seconds": json.loads(answer.stdout)["seconds"], "all": time.perf_counter() - began}


def rows(out: Path) -> dict[str, int]:
    return {
        name: sum(pq.ParquetFile(part).metadata.num_rows for part in (out / name).glob("*.parquet")) for name in TABLES
    }


def refuse_different(ours: Path, theirs: Path) -> None:
    """Raises SystemExit where the tables differ in rows, or the examples in more than the drawn candidates."""
    import polars as pl
    from polars.testing import assert_frame_equal

    if rows(ours) != rows(theirs):
        raise SystemExit(f"error: the stage wrote {rows(ours)} rows, the polars script {rows(theirs)}")
    columns = ["example_id", "history", "target", "split", "seen"]
    sizes = []
    found = []
    for out in (ours, theirs):
        table = pl.scan_parquet(out / "examples/*.parquet")
        found.append(table.select(columns).sort("example_id").collect())
        sets = table.select("target", "candidates").select(
            size=pl.col("candidates").list.n_unique(), target=pl.col("candidates").list.contains(pl.col("target"))
        )
        sizes.append(sets.select(pl.col("size").min(), pl.col("target").all()).collect().row(0))
    if sizes[0] != sizes[1] or not sizes[0][1]:
        raise SystemExit(f"error: smallest candidate set and whether all hold their target: {sizes}")
    assert_frame_equal(*found)


def compare(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    recipe = write_log(folder / "log", given.rows, ITEMS, "parquet", given.seed)
    sides: dict[str, list[dict[str, float]]] = {"stage": [], "polars": []}
    written: dict[str, int] = {}
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            ours, theirs = Path(temporary, "stage"), Path(temporary, "polars")
            for name in ("stage", "polars") if number % 2 else ("polars", "stage"):
                sides[name].append(stage(recipe, ours) if name == "stage" else script(folder / "log", theirs))
                print(f"round {number + 1} {name:6} {sides[name][-1]}", file=sys.stderr, flush=True)
            if not number:
                refuse_different(ours, theirs)
                written = rows(ours)
    pairs = list(zip(sides["stage"], sides["polars"], strict=True))
    figures = {
        "data_vs_polars": figure([a["seconds"] / b["seconds"] for a, b in pairs], GOAL),
        "data_vs_polars_with_start": figure([a["all"] / b["all"] for a, b in pairs]),
        "data_stage": figure([a["seconds"] for a, _ in pairs], unit="s"),
        "data_polars": figure([b["seconds"] for _, b in pairs], unit="s"),
        "ray_start": figure([a["start"] for a, _ in pairs], unit="s"),
    }
    import polars as pl

    details = {
        "workload": {"rows": given.rows, "items": ITEMS, "min_rating": MIN_RATING, "rows_written": written},
        "polars": {"version": pl.__version__, "threads": pl.thread_pool_size()},
        "rounds": sides,
    }
    return figures, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a million rows, three rounds")
    parser.add_argument("--rows", type=int, help="of the log; default: 5,000,000, with --quick 1,000,000")
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where log and tables lie until the end; default: the system's")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)  # one side, started by this script
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage is not None:
        print(json.dumps(run_stage(given.stage, given.out)))
        return
    need("polars")
    given.rows = given.rows or (1_000_000 if given.quick else 5_000_000)
    given.rounds = given.rounds or (3 if given.quick else 5)
    with tempfile.TemporaryDirectory(prefix="data-polars-", dir=given.folder) as folder:
        figures, details = compare(given, Path(folder))
    write("data_vs_polars_quick" if given.quick else "data_vs_polars", figures, details)


if __name__ == "__main__":
    main()
