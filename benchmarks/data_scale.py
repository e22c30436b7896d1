"""Memory and time of the data stage as the log grows tenfold.

    python benchmarks/data_scale.py
    python benchmarks/data_scale.py --rows 200000 2000000 --rounds 1 --format csv --out /tmp/small.json

Makes a seeded synthetic log for each size and runs `jobs/stage.py data` on it as a user would, the sizes in turn
within each round. Prints a table and writes the JSON file --out with the ratios of the largest to the smallest size:
peak memory, and seconds per row. The exit code says nothing about them.

Memory is the sum of the proportional set size (PSS) over the job and all processes that descend from it, its local
Ray cluster with the object store among them, so every shared page counts once (Linux only). Seconds are the stage's
own, as it records them; starting Python and Ray stands apart. CPU seconds, of the same processes from the stage's start
to the end, tell a slow stage from a machine that was busy with something else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[1]
PER_USER = 20
FILE_ROWS = 500_000
DAY = 86_400
EVERY = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("ray", "pyarrow", "numpy")


def write_log(folder: Path, rows: int, items: int, kind: str, seed: int) -> Path:
    """A log of `rows` interactions in files of FILE_ROWS, each a stretch of time, and its items; a recipe for them.

    Users differ as the log-normal (sigma 1.2, 2,000 interactions at most), items as 1 / (rank + 20).
    """
    (folder / "log").mkdir(parents=True)
    item_ids = pa.array([f"i{n:06d}" for n in range(items)])
    pq.write_table(
        pa.table({"item_id": item_ids, "title": [f"Title of item {n}" for n in range(items)]}), folder / "items.parquet"
    )
    rng = np.random.default_rng([seed, rows])
    users = max(2, rows // PER_USER)
    activity = np.minimum(rng.lognormal(0.0, 1.2, users), 2000 / PER_USER * np.exp(0.72))
    by_user = np.cumsum(activity) / activity.sum()
    by_item = np.cumsum(1.0 / (np.arange(items) + 20.0))
    by_item /= by_item[-1]
    popular = rng.permutation(items)
    user_ids = pc.binary_join_element_wise("u", pc.cast(pa.array(np.arange(users)), pa.string()), "")
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        size = min(FILE_ROWS, rows - first)
        table = pa.table(
            {
                "user_id": user_ids.take(pa.array(np.searchsorted(by_user, rng.random(size)))),
                "item_id": item_ids.take(pa.array(popular[np.searchsorted(by_item, rng.random(size))])),
                "timestamp": 1_600_000_000 + number * DAY + np.sort(rng.integers(0, DAY, size)),
                "rating": rng.integers(1, 6, size).astype(np.float32),
            }
        )
        path = folder / "log" / f"{number:05d}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            pa.csv.write_csv(table, path)
    recipe = folder / "recipe.yaml"
    files = {"interactions": str(folder / "log"), "items": str(folder / "items.parquet")}
    recipe.write_text(yaml.safe_dump({"data": {"sample": "none", **files}}))
    return recipe


@dataclass(frozen=True)
class Sample:
    """Of all processes together: PSS in bytes by kind, and CPU seconds of each."""

    moment: float
    pss: dict[str, int]
    cpu: dict[int, float]

    @property
    def bytes(self) -> int:
        return sum(self.pss.values())


def family(root: int) -> list[int]:
    """Process ids of `root` and its descendants; none once it has ended."""
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def sample(root: int) -> Sample:
    """`root` and its descendants: private pages, shared memory (that is the object store) and mapped files."""
    pss, cpu = {"Pss_Anon": 0, "Pss_Shmem": 0, "Pss_File": 0}, {}
    for pid in family(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        cpu[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        for line in lines:
            name, _, value = line.partition(":")
            if name in pss:
                pss[name] += int(value.split()[0]) * 1024
    return Sample(time.time(), pss, cpu)


def cpu_seconds(samples: list[Sample]) -> float:
    """CPU seconds of every process that was seen, ended ones as last seen."""
    last: dict[int, float] = {}
    for one in samples:
        last.update(one.cpu)
    return sum(last.values())


def run_job(recipe: Path, run_dir: Path) -> dict:
    """One run of the stage. Raises CalledProcessError where it fails; its message is on the terminal."""
    stages = run_dir / "stages"  # of its own: no run may find the tables of another
    command = [sys.executable, str(ROOT / "jobs/stage.py"), "data", "--recipe", str(recipe)]
    command += ["--run.dir", str(run_dir), "--run.stages", str(stages)]
    began, samples = time.time(), []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None:
            samples.append(sample(job.pid))
            time.sleep(EVERY)
    if job.returncode:
        raise subprocess.CalledProcessError(job.returncode, command)
    started = next(line for line in (run_dir / "run.log").read_text().splitlines() if "…" in line)
    stage = datetime.strptime(started[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    before = [one for one in samples if one.moment < stage]
    peak = max(samples, key=lambda one: one.bytes)
    done = json.loads(next(stages.glob("data/*/_done.json")).read_text())
    return {
        "peak_bytes": peak.bytes,
        "peak_by_kind": peak.pss,
        "cluster_bytes": before[-1].bytes,
        "seconds": done["seconds"],
        "cpu_seconds": cpu_seconds(samples) - cpu_seconds(before),
        "start_seconds": stage - began,
        "counts": done["info"]["counts"],
    }


def figures(rounds: list[dict]) -> dict:
    """Ratios of the largest to the smallest size: of the median peaks, and of the least seconds per row (whatever
    else ran on the machine can only add to them)."""
    sizes = sorted({run["rows"] for run in rounds})
    small, large = ([run for run in rounds if run["rows"] == size] for size in (sizes[0], sizes[-1]))
    peaks = [statistics.median(run["peak_bytes"] for run in group) for group in (small, large)]
    found = {"memory_ratio": round(peaks[1] / peaks[0], 3)}
    for name, key in (("time_ratio_per_row", "seconds"), ("cpu_ratio_per_row", "cpu_seconds")):
        each = [min(run[key] / run["rows"] for run in group) for group in (small, large)]
        found[name] = round(each[1] / each[0], 3)
    return found


def table(rounds: list[dict]) -> str:
    names = ("round", "rows", "peak MiB", "of it shared", "before the stage", "s", "µs per row", "CPU s", "start-up s")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for run in rounds:
        mib = [number >> 20 for number in (run["peak_bytes"], run["peak_by_kind"]["Pss_Shmem"], run["cluster_bytes"])]
        lines.append(
            f"| {run['round']} | {run['rows']:,} | {mib[0]:,} | {mib[1]:,} | {mib[2]:,} | {run['seconds']:.1f} "
            f"| {run['seconds'] / run['rows'] * 1e6:.1f} | {run['cpu_seconds']:.0f} | {run['start_seconds']:.1f} |"
        )
    return "\n".join(lines)


def write_result(given: argparse.Namespace, rounds: list[dict]) -> None:
    result = {
        "figures": figures(rounds),
        "log": {"format": given.format, "items": given.items, "per_user": PER_USER, "seed": given.seed},
        "rounds": rounds,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 20_000_000], help="sizes of the logs")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the logs and runs lie until the end; default: the system's")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/data_scale.json")
    given = parser.parse_args()
    rounds: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="data-scale-", dir=given.folder) as temporary:
        folder = Path(temporary)
        recipes = {n: write_log(folder / str(n), n, given.items, given.format, given.seed) for n in given.rows}
        for number in range(1, given.rounds + 1):
            for rows, recipe in recipes.items():
                with tempfile.TemporaryDirectory(dir=folder) as run_dir:
                    found = run_job(recipe, Path(run_dir) / "run")
                rounds.append({"round": number, "rows": rows, **found})
                print(table(rounds[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            write_result(given, rounds)  # after each round: they take long
    print(table(rounds))
    print(f"\n{json.dumps(figures(rounds))}, in {given.out}")


if __name__ == "__main__":
    main()
