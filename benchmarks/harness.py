"""What the kernel benchmarks share: sides timed interleaved in one process, ratios round by round, one form of results.

A ratio is the median over rounds of the ratio within the round, where both sides met the same machine; its spread are
the quartiles over rounds. Every side uses one thread (:func:`pin_threads`).
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PACKAGES = ("torch", "transformers", "peft", "trl", "ray", "numpy")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

Side = Callable[[], float | None]
"""Does its work once; a side that returns a number reports that as its seconds instead of being timed."""


def pin_threads() -> None:
    """One thread for every library. Starts the script anew where the environment did not say so before the import."""
    wanted = dict.fromkeys(THREADS, "1") | QUIET
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)


def need(*competitors: str) -> None:
    """Ends the script where a competitor is not installed, before anything is measured."""
    if missing := [name for name in competitors if importlib.util.find_spec(name) is None]:
        print(
            f"error: this benchmark measures against {' and '.join(missing)}, which this Python does not have; run it "
            "by `make bench` or `make bench-full`, or with .venv-bench/bin/python, which these make",
            file=sys.stderr,
        )
        raise SystemExit(2)


@dataclass
class Times:
    """Seconds of one side, one entry per round: by the clock, and of the processor (which tells a busy machine)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(sides: Mapping[str, Side], rounds: int, warmup: int = 1) -> dict[str, Times]:
    """Run every side once per round, after `warmup` rounds that do not count. The order rotates with each round."""
    times = {name: Times() for name in sides}
    names = list(sides)
    for number in range(-warmup, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            reported = sides[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 0:
                times[name].wall.append(wall if reported is None else reported)
                times[name].cpu.append(cpu if reported is None else reported)
        done = "warm-up" if number < 0 else f"round {number + 1} of {rounds}"
        print(f"{done}: {', '.join(names)}", file=sys.stderr, flush=True)
    return times


@dataclass(frozen=True)
class Figure:
    """A measured value with its quartiles over rounds, and what was promised of it."""

    value: float
    low: float
    high: float
    rounds: int
    unit: str = "×"
    at_least: float | None = None
    """The threshold: at least this, or at most this where `lower_is_better`; None for what is only reported."""
    goal: float | None = None
    lower_is_better: bool = False
    cpu_time_value: float | None = None
    """The same ratio from processor time: close to `value` on a machine that did nothing else."""

    @property
    def met(self) -> bool | None:
        if self.at_least is None:
            return None
        return self.value <= self.at_least if self.lower_is_better else self.value >= self.at_least


@dataclass(frozen=True)
class Promise:
    at_least: float | None = None
    goal: float | None = None
    lower_is_better: bool = False


def figure(
    values: Sequence[float], promise: Promise | None = None, unit: str = "×", cpu: float | None = None
) -> Figure:
    """Median and quartiles of one value per round."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Figure(middle, low, high, len(values), unit, cpu_time_value=cpu, **asdict(promise or Promise()))


def ratio(slow: Times, fast: Times, promise: Promise | None = None) -> Figure:
    """How many times longer `slow` took than `fast`."""
    wall, cpu = (
        [a / b for a, b in zip(getattr(slow, clock), getattr(fast, clock), strict=True)] for clock in ("wall", "cpu")
    )
    return figure(wall, promise, cpu=statistics.median(cpu))


def seconds(times: Mapping[str, Times]) -> dict[str, dict[str, Any]]:
    """For the details of a result: median seconds and those of each round."""
    return {name: {"median": statistics.median(one.wall), **asdict(one)} for name, one in times.items()}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average_at_the_end": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def revision() -> str:
    """The commit, with a plus sign where tracked files differ from it."""
    try:
        run = [subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True) for args in _GIT]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run[0].stdout.strip() + ("+" if run[1].stdout.strip() else "")


_GIT = (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))


def write(name: str, figures: Mapping[str, Figure], details: dict[str, Any], folder: Path = RESULTS) -> None:
    """`NAME.json`, a Markdown table `NAME.md` and a plot `NAME.png`; prints the table."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "figures": {key: {**asdict(one), "met": one.met} for key, one in figures.items()},
        "details": details,
        "machine": machine(),
        "versions": versions(),
        "revision": revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    text = table(figures)
    (folder / f"{name}.md").write_text(text + "\n")
    plot(figures, folder / f"{name}.png")
    print(text)


def table(figures: Mapping[str, Figure]) -> str:
    lines = ["| figure | measured | quartiles | threshold | goal | met |", "|---|---|---|---|---|---|"]
    for name, one in figures.items():
        sign = "≤ " if one.lower_is_better else ""
        promised = ["–" if number is None else f"{sign}{number:g}" for number in (one.at_least, one.goal)]
        met = {None: "–", True: "yes", False: "**no**"}[one.met]
        lines.append(
            f"| `{name}` | {_digits(one.value)} {one.unit} | {_digits(one.low)} – {_digits(one.high)} "
            f"| {promised[0]} | {promised[1]} | {met} |"
        )
    return "\n".join(lines)


def _digits(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 1 else f"{number:.2f}" if abs(number) < 100 else f"{number:.0f}"


def plot(figures: Mapping[str, Figure], path: Path) -> None:
    """Bars with quartiles on a logarithmic axis; a line marks the threshold, a star the goal."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = list(figures.values())
    fig, axis = plt.subplots(figsize=(8, 0.8 + 0.34 * len(values)), layout="constrained")
    colours = {None: "tab:gray", True: "tab:green", False: "tab:red"}
    spread = [[one.value - one.low for one in values], [one.high - one.value for one in values]]
    axis.barh(range(len(values)), [one.value for one in values], xerr=spread, color=[colours[v.met] for v in values])
    for row, one in enumerate(values):
        if one.at_least is not None:
            axis.plot([one.at_least] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2)
        if one.goal is not None:
            axis.plot(one.goal, row, "k*")
    axis.set_yticks(range(len(values)), list(figures))
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("measured (bar, quartiles), threshold (line), goal (star)")
    fig.savefig(path, dpi=110)
    plt.close(fig)
