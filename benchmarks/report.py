"""Copies the results into docs/results.md and docs/benchmarks.md, between the comments that name them.

    python benchmarks/report.py

A unit test holds the two files to `benchmarks/results/`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = ("docs/results.md", "docs/benchmarks.md")

# Of the short table: what a row says, its figures, and the result that holds them.
ROWS = (
    (
        "a step against separate rows, K = 1 / 3 / 7 / 15",
        ("step_vs_separate_k1", "step_vs_separate_k3", "step_vs_separate_k7", "step_vs_separate_k15"),
        "step",
    ),
    ("a step against TRL, K = 1, reference cached / live", ("step_vs_trl_cached_k1", "step_vs_trl_live_k1"), "step"),
    ("a step against TRL, K = 15", ("step_vs_trl_k15",), "step"),
    ("fraction of the machine's own matrix-product rate", ("step_flop_fraction",), "step"),
    (
        "memory a step adds, of TRL's / of separate rows', K = 1",
        ("step_memory_vs_trl", "step_memory_vs_separate"),
        "step",
    ),
    ("20 candidates against naive passes / an expanded KV cache", ("score20_vs_naive", "score20_vs_kv"), "scoring"),
    (
        "exact ten best of 1,682 / 50,000 titles against scoring all",
        ("topk_vs_all_1682", "topk_vs_all_50k"),
        "catalogue_search",
    ),
    ("the alignment stage on Ray against a bare process, time of a step", ("ray_overhead",), "ray_overhead"),
    ("… a policy of 2 M parameters, steps of a third of a second", ("ray_overhead",), "ray_overhead_quick"),
    ("part of a steady step that waits for its batch (asked for before)", ("oracle_wait_share",), "ray_overhead"),
    ("oracle by Serve handle against the direct call, pairs/s", ("oracle_handle_vs_direct",), "oracle_service"),
    ("the data stage against a polars script, time", ("data_vs_polars",), "data_vs_polars"),
)


def digits(number: float) -> str:
    for bound, places in ((1, 3), (10, 2), (100, 1)):
        if abs(number) < bound:
            return f"{number:.{places}f}"
    return f"{number:.0f}"


def threshold(figure: dict[str, Any]) -> str:
    if figure["at_least"] is None:
        return "–"
    return ("≤ " if figure["lower_is_better"] else "") + f"{figure['at_least']:g}"


def summary() -> str:
    """The short table of docs/results.md."""
    lines = ["| figure | measured | threshold | script |", "|---|---|---|---|"]
    for label, names, result in ROWS:
        figures = json.loads((RESULTS / f"{result}.json").read_text())["figures"]
        found = [figures[name] for name in names]
        measured = " / ".join(digits(one["value"]) + (" ×" if one["unit"] == "×" else "") for one in found)
        wanted = " / ".join(map(threshold, found)) if any(one["at_least"] is not None for one in found) else "–"
        script = result.removesuffix("_quick")
        lines.append(f"| {label} | {measured} | {wanted} | `benchmarks/{script}.py` |")
    return "\n".join(lines)


def table(name: str) -> str:
    """The result's own table, with the command that made it."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    load = result["machine"].get("load_average_at_the_end", [float("nan")])[0]
    made = f"`{result['command']}`, revision {result['revision'][:7]}, load at the end {load:.1f}"
    return f"{(RESULTS / f'{name}.md').read_text().strip()}\n\n{made}"


def filled(page: str) -> str:
    """`page` with the present results between its comments."""

    def text_for(found: re.Match[str]) -> str:
        name = found["name"]
        text = summary() if name == "summary" else table(name)
        return f"<!-- result: {name} -->\n\n{text}\n\n<!-- end -->"

    return re.sub(r"<!-- result: (?P<name>\w+) -->.*?<!-- end -->", text_for, page, flags=re.DOTALL)


def main() -> None:
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
