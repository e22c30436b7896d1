"""What a run says at its end: `summary.json` for programs and a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rosepo_ray import storage

NAME = "summary.json"
_LABELS = {
    "popular": "most popular",
    "oracle": "oracle",
    "sft": "SFT",
    "sft_longer": "SFT longer",
    "aligned": "aligned",
}
_WRITING_MAY_FALL = 0.01
"""Share of texts; more than that is said."""
_COLUMNS = ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "full_hr@10", "catalogue_ratio")


def build(
    info: Mapping[str, dict[str, Any]],
    stages: Mapping[str, dict[str, Any]],
    peak_pss_bytes: int,
    run_dir: str,
) -> dict[str, Any]:
    """The content of summary.json (see docs/summary.md) from what each stage reported; `mlflow` follows when known."""
    evaluation, data, align = info["evaluate"], info["data"], info["align"]
    oracle = info.get("calibrate")
    return {
        "run_dir": run_dir,
        "split": evaluation["split"],
        "models": evaluation["models"],
        "differences": evaluation["differences"],
        "target_arp": evaluation["target_arp"],
        "notes": evaluation["notes"],
        "epsilon": oracle["epsilon"] if oracle else {"train": align["mean_epsilon"], "validation": None},
        "oracle": {name: oracle[name] for name in ("ece", "pair_accuracy", "temperature", "version")}
        if oracle
        else None,
        "counts": data["counts"],
        "pairs": info["reject"]["pairs"],
        "passed_over": info["reject"]["passed_over"],
        "dataset": data["dataset"],
        "protocol": data["protocol"],
        "stages": dict(stages),
        "peak_pss_bytes": peak_pss_bytes,
        "mlflow": None,
    }


def write(run_dir: str, summary: dict[str, Any]) -> None:
    storage.write_json(storage.join(run_dir, NAME), summary)


def table(summary: dict[str, Any]) -> str:
    """The closing table: one row per model, HR@1 with its 95 % interval; behind the usual figures the user's own."""
    columns = (*_COLUMNS, *summary["notes"]["own_metrics"])
    lines = [f"{'':13}" + "".join(f"{_head(name):>{_width(name)}}" for name in columns)]
    for model, metrics in summary["models"].items():
        cells = "".join(f"{_cell(name, metrics[name]):>{_width(name)}}" for name in columns)
        lines.append(f"{_LABELS.get(model, model):13}" + cells)
    rows, split = next(iter(summary["models"].values()))["hr@1"]["rows"], summary["split"]
    of = summary["counts"]["examples"][split]
    judged = f"{rows} {split} rows" if rows == of else f"{rows} of {of} {split} rows"
    lines.append(f"{judged}; mean popularity of the true targets {summary['target_arp']:.1f}")
    for name, metrics in summary["differences"].items():
        entry = metrics["hr@1"]
        lines.append(f"{name}: HR@1 {entry['value']:+.4f}{_interval(entry, '+.4f')}")
    return "\n".join([*lines, *_conclusion(summary), *_below_popular(summary), *_worse_writing(summary)])


def _conclusion(summary: dict[str, Any]) -> list[str]:
    """What the intervals allow to say of alignment, in one sentence."""
    said: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
    for control in ("sft", "sft_longer", "oracle", "popular"):
        entry = summary["differences"].get(f"aligned-{control}", {}).get("hr@1")
        if entry is None or entry["low"] is None:
            continue
        verdict = "above" if entry["low"] > 0 else "below" if entry["high"] < 0 else "not told apart from"
        said[verdict].append(_LABELS[control])
    parts = [f"{verdict} {', '.join(names)}" for verdict, names in said.items() if names]
    return [f"by HR@1, aligned is {'; '.join(parts)} (95 % intervals over users)"] if parts else []


def _below_popular(summary: dict[str, Any]) -> list[str]:
    """A sentence where a policy is no better than no policy: what is built on it says little."""
    popular = summary["models"].get("popular", {}).get("hr@1", {}).get("value")
    named = [n for n in ("sft", "aligned") if n in summary["models"]]
    below = [_LABELS[n] for n in named if popular is not None and summary["models"][n]["hr@1"]["value"] < popular]
    if not below:
        return []
    return [
        f"warning: {' and '.join(below)} rank{'s' if len(below) == 1 else ''} below most popular (HR@1 {popular:.4f}): "
        "the policy has not learned this log yet; give more --sft.steps, or a larger policy"
    ]


def _worse_writing(summary: dict[str, Any]) -> list[str]:
    """A sentence where alignment has unlearned to write titles: no ranking shows it."""
    fallen = summary["differences"].get("aligned-sft", {}).get("catalogue_ratio", {}).get("high")
    if fallen is None or fallen >= -_WRITING_MAY_FALL:
        return []
    sft, aligned = (summary["models"][name]["catalogue_ratio"]["value"] for name in ("sft", "aligned"))
    return [
        f"warning: {aligned:.1%} of the texts that the aligned policy writes name an item, {sft:.1%} before alignment; "
        "where it is to write titles freely, set --align.sft_weight, or lower --align.lr"
    ]


def _interval(entry: dict[str, Any], digits: str) -> str:
    """The interval, or nothing where there is none (all rows belong to one user)."""
    return "" if entry["low"] is None else f" [{entry['low']:{digits}}, {entry['high']:{digits}}]"


def _head(name: str) -> str:
    heads = {"hr@1": "HR@1 [95 %]", "full_hr@10": "HR@10 of all", "catalogue_ratio": "in catalogue"}
    return heads.get(name, name.upper())


def _width(name: str) -> int:
    return {"hr@1": 23, "full_hr@10": 14, "catalogue_ratio": 14}.get(name, max(9, len(name) + 2))


def _cell(name: str, entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return "-"
    if name == "hr@1":
        return f"{entry['value']:.4f}{_interval(entry, '.3f')}"
    return f"{entry['value']:.1f}" if name == "arp" else f"{entry['value']:.4f}"
