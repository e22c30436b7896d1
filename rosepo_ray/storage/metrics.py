"""The figures of a training run by step: parts that grow while it trains, and one `metrics.jsonl` at its end.

A row is {"step": int, "time": Unix seconds, figure: number, …}. Parts are whole files, rewritten as they grow (an
object store cannot append), so that a reader follows a run while it trains. A run that goes on from a checkpoint
repeats the steps after it, with the same figures.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from rosepo_ray.storage import files

NAME = "metrics.jsonl"
FOLDER = "metrics"
_SECONDS = 5.0  # between two writes of the newest part
_ROWS = 1000  # of a part
_FILE = re.compile(rf"(?:(?P<below>.+)/)?(?:{FOLDER}/part-\d+\.jsonl|{re.escape(NAME)})")

Row = dict[str, Any]


class Writer:
    """Writes the rows of one training run below its folder; `close_part` where it must not lose any."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._rows: list[Row] = []
        self._written = time.monotonic()

    def add(self, row: Row) -> None:
        self._rows.append({**row, "time": round(time.time(), 3)})
        if len(self._rows) >= _ROWS:
            self.close_part()
        elif time.monotonic() - self._written > _SECONDS:
            self._write()

    def close_part(self) -> None:
        if self._rows:
            self._write()
            self._rows.clear()

    def _write(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        name = f"part-{self._rows[0]['step']:08d}.jsonl"
        files.write_bytes(files.join(self.folder, FOLDER, name), text.encode())
        self._written = time.monotonic()


def assemble(folder: str) -> None:
    """Join the parts into metrics.jsonl, a row for each step."""
    rows: dict[int, Row] = {}
    for name in files.list_files(files.join(folder, FOLDER)):
        rows |= {row["step"]: row for row in _read(files.join(folder, FOLDER, name))}
    text = "".join(json.dumps(rows[step]) + "\n" for step in sorted(rows))
    files.write_bytes(files.join(folder, NAME), text.encode())


def read(folder: str) -> list[Row]:
    """The rows of a run that has trained to its end."""
    return _read(files.join(folder, NAME))


def runs(folder: str) -> list[str]:
    """Where below a stage's folder training runs keep figures: "" for the folder itself, "fold0", …"""
    found = (_FILE.fullmatch(name) for name in files.list_files(folder))
    return sorted({match["below"] or "" for match in found if match})


def read_after(folder: str, step: int) -> list[Row]:
    """The rows after that step, sorted, of a run that may be training right now: none where it tidies up at the
    moment."""
    try:
        if files.exists(files.join(folder, NAME)):
            rows = read(folder)
        else:
            parts = files.list_files(files.join(folder, FOLDER))
            passed = [later for later in parts[1:] if int(later[len("part-") : -len(".jsonl")]) <= step + 1]
            rows = [row for name in parts[len(passed) :] for row in _read(files.join(folder, FOLDER, name))]
    except FileNotFoundError:
        return []
    fresh = {row["step"]: row for row in rows if row["step"] > step}
    return [fresh[number] for number in sorted(fresh)]


def _read(uri: str) -> list[Row]:
    return [json.loads(line) for line in files.read_bytes(uri).decode().splitlines()]
