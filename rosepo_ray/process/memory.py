"""Peak memory of a run: proportional set size (PSS), which counts shared pages once over all processes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

_SECONDS = 2.0


class PeakMemory:
    """Samples the sum of PSS over this process and its descendants, among them a local cluster that it started.

    Linux only: elsewhere `peak` stays 0. Of a cluster that was running before, it sees only the driver's own processes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(_pss(pid) for pid in family(os.getpid())))
            if self._stop.wait(_SECONDS):
                return


def family(root: int) -> set[int]:
    """Process ids of `root` and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.name)] = int(fields[1])
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
