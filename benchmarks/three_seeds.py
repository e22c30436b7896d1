"""Quality in docs/results.md: a recipe run with several training seeds on one protocol, seeds averaged per row first.

    python benchmarks/three_seeds.py --recipe quickstart --out runs/three-seeds --seeds 1 2 3
    python benchmarks/three_seeds.py --out runs/three-seeds --name popularity -- --rejection.strategy.type popularity

Each seed is one `jobs/align.py` run below --out/NAME; runs that are there already are used as they are. Writes
`results-NAME.json` and prints a Markdown table. Intervals resample users and hold for these training seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc

from rosepo_ray import storage
from rosepo_ray.catalogue.encoders import build_encoder
from rosepo_ray.evaluation.metrics import summarise
from rosepo_ray.evaluation.per_row import average, collect, judge
from rosepo_ray.run import stage_store
from rosepo_ray.storage import tables

ROOT = Path(__file__).parents[1]
COLUMNS = ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "semantic_over_selection", "catalogue_ratio")


def run_seed(out: Path, recipe: str, seed: int, extra: list[str]) -> Path:
    run_dir = out / f"seed{seed}"
    if not (run_dir / "summary.json").is_file():
        command = [sys.executable, str(ROOT / "jobs/align.py"), "--recipe", recipe, "--seed", str(seed)]
        subprocess.run([*command, "--run.dir", str(run_dir), *extra], check=True, cwd=ROOT)
    return run_dir


def together(runs: list[Path], draws: int) -> dict:
    """Metrics of all models over the seeds. Raises SystemExit where the runs do not share the protocol."""
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    if len({summary["protocol"] for summary in summaries}) != 1:
        raise SystemExit("these runs do not share the test rows (protocol), so they cannot be averaged")
    data = stage_store.names(str(runs[0]))["data"]
    examples, items = tables.read(data, "examples"), tables.read(data, "items")
    examples = examples.filter(pc.equal(examples["split"], summaries[0]["split"]))
    judged = judge(examples, items, build_encoder("tfidf", items["title"].to_pylist()), listed=False)
    rows = {}
    for model in summaries[0]["models"]:
        found = []
        for run in runs:
            evaluation = stage_store.names(str(run))["evaluate"]
            predictions = tables.read(storage.join(evaluation, "predictions", model), "predictions")
            found.append(collect(model, predictions, judged))
        rows[model] = average(found)
    result = summarise(rows, judged, draws=draws, seed=1)
    result["per_seed"] = {
        run.name: {model: metrics["hr@1"]["value"] for model, metrics in summary["models"].items()}
        for run, summary in zip(runs, summaries, strict=True)
    }
    for name in ("epsilon", "oracle", "stages", "peak_pss_bytes"):
        result[name] = [summary[name] for summary in summaries]
    return result


def markdown(result: dict) -> str:
    lines = ["| model | HR@1 | " + " | ".join(COLUMNS[1:]) + " |", "|---|---|" + "---|" * (len(COLUMNS) - 1)]
    for model, metrics in result["models"].items():
        cells = [f"{metrics['hr@1']['value']:.4f} [{metrics['hr@1']['low']:.3f}, {metrics['hr@1']['high']:.3f}]"]
        for name in COLUMNS[1:]:
            value = metrics[name]["value"]
            cells.append("–" if value is None else f"{value:.1f}" if name == "arp" else f"{value:.3f}")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines.append(f"\nmean popularity of the true targets {result['target_arp']:.1f}")
    for name, metrics in result["differences"].items():
        for metric in ("hr@1", "ndcg@10", "arp"):
            entry = metrics[metric]
            lines.append(f"- {name}, {metric}: {entry['value']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--out", type=Path, default=Path("runs/three-seeds"))
    parser.add_argument("--name", default="self_hard", help="folder below --out for this variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("extra", nargs="*", help="further settings for jobs/align.py, after --")
    given = parser.parse_args()
    folder = given.out.absolute() / given.name
    runs = [run_seed(folder, given.recipe, seed, given.extra) for seed in given.seeds]
    result = together(runs, given.draws)
    storage.write_json(str(given.out.absolute() / f"results-{given.name}.json"), result)
    print(markdown(result))


if __name__ == "__main__":
    main()
