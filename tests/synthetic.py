"""A small made-up log with something to learn: each user walks through themes whose items share words."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

THEMES = ("Harbour", "Desert", "Winter", "Circus", "Orchard", "Signal")
KINDS = ("Night", "Letters", "Return", "Secrets", "Garden", "Music", "Shadows", "Bridge")


def items() -> list[tuple[str, str]]:
    """48 items: (item_id, title)."""
    return [(str(100 + n), f"{theme} {kind}") for n, (theme, kind) in enumerate((t, k) for t in THEMES for k in KINDS)]


def write_log(folder: Path, users: int = 60, length: int = 14, seed: int = 0) -> dict[str, str]:
    """interactions.csv and items.csv below `folder`; returns the settings that name them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *items()])
    rows = []
    for user in range(users):
        start, seen, theme = int(rng.integers(0, 10_000)), set(), int(rng.integers(len(THEMES)))
        for step in range(length):
            if rng.random() < 0.2:
                theme = int(rng.integers(len(THEMES)))
            free = [k for k in range(len(KINDS)) if (theme, k) not in seen]
            if not free:
                continue
            kind = free[int(rng.integers(len(free)))]
            seen.add((theme, kind))
            item = str(100 + theme * len(KINDS) + kind)
            rows.append((f"u{user}", item, start + 10 * step, int(rng.integers(1, 6))))
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp", "rating"), *rows])
    return {"interactions": str(folder / "interactions.csv"), "items": str(folder / "items.csv")}


def tiny(folder: Path, **sections: dict) -> dict:
    """Settings of a run that takes seconds per stage, on the log below `folder`."""
    values: dict = {
        "data": {"sample": "none", **write_log(folder), "min_rating": 2, "candidates": 8, "history": 5},
        "policy": {"type": "scratch", "hidden": 32, "layers": 2, "heads": 2, "vocabulary": 400},
        "sft": {"steps": 30, "batch": 16, "lr": 5e-3, "checkpoint_every": 10},
        "oracle": {"type": "sasrec", "hidden": 16, "heads": 2, "layers": 1, "steps": 30, "batch": 32, "lr": 5e-3},
        "rejection": {"examples": 64, "validation_examples": 40},
        "align": {"batch": 16, "lr": 1e-3, "checkpoint_every": 2},
        "evaluation": {"draws": 200},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values
