"""The stages of a finished run as the pipeline leaves them, in a second: made up, but readable by all that follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.storage import done, tables

ITEMS = {"t": 10, "p": 20, "q": 6}
_ROW = {"example_id": "u:1", "user_id": "u"}
_FIGURES = ("hr@1", "hr@5", "ndcg@10", "mrr", "arp", "mgu@1", "full_hr@10", "catalogue_ratio")
_ENTRY = {"value": 0.5, "low": 0.25, "high": 0.75, "rows": 1}
_STEPS = 4

INFO: dict[str, dict[str, Any]] = {
    "data": {
        "counts": {"kept": 3, "examples": {"test": 1}},
        "dataset": "d" * 64,
        "protocol": "p" * 64,
        "split": "time",
    },
    "sft": {"steps": _STEPS},
    "oracle": {"version": "v"},
    "reject": {"pairs": {"train": 1}, "passed_over": 0},
    "calibrate": {
        "version": "v",
        "temperature": 1.5,
        "ece": 0.1,
        "pair_accuracy": 0.75,
        "epsilon": {"train": 0.25, "validation": 0.5},
    },
    "align": {"steps": _STEPS, "mean_epsilon": 0.25},
    "sft_longer": {"steps": _STEPS},
    "evaluate": {
        "split": "test",
        "models": {
            model: dict.fromkeys(_FIGURES, _ENTRY) for model in ("popular", "oracle", "sft", "sft_longer", "aligned")
        },
        "differences": {},
        "target_arp": 10.0,
        "notes": {"own_metrics": []},
    },
}


def metric_lines(steps: range) -> str:
    return "".join(json.dumps({"step": n, "loss": 1 / n, "time": 1.8e9 + n}) + "\n" for n in steps)


def make(folders: Mapping[str, str]) -> None:
    """Fill the folder of every stage, markers included."""
    from rosepo_ray.policy import store

    policy = store.build(
        ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280), PromptSettings(), list(ITEMS), [1, 1, 1], 1
    )
    store.save(policy, Path(folders["align"]) / "model")
    items = [{"item_id": i, "title": i, "genres": None, "popularity": n} for i, n in ITEMS.items()]
    example = {**_ROW, "history": ["q"], "target": "t", "candidates": ["p", "q", "t"], "split": "test"}
    tables.write_part(folders["data"], "items", 0, tables.from_rows("items", items))
    tables.write_part(folders["data"], "examples", 0, tables.from_rows("examples", [example]))
    prediction = {**_ROW, "ranked": ["t", "p", "q"], "scores": [0.0, -1.0, -2.0], "generated": None, "outcome": None}
    found = tables.from_rows("predictions", [prediction])
    tables.write_part(f"{folders['evaluate']}/predictions/aligned", "predictions", 0, found)
    storage.write_json(f"{folders['evaluate']}/evaluation.json", {})
    lines = metric_lines(range(1, _STEPS + 1)).encode()
    for stage, below in (("sft", ""), ("align", ""), ("sft_longer", ""), ("oracle", "fold0/")):
        if stage in folders:
            storage.write_bytes(f"{folders[stage]}/{below}metrics.jsonl", lines)
    if "calibrate" in folders:
        storage.write_json(f"{folders['calibrate']}/oracle/oracle.json", {})
    for stage, folder in folders.items():
        done.write(folder, INFO[stage], 1.0)
