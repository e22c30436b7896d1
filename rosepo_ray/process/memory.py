"""Peak memory of a run: proportional set size (PSS), which counts shared pages once over all processes."""

from __future__ import annotations

import threading

import psutil

_SECONDS = 2.0


class PeakMemory:
    """Samples the sum of PSS over this process and its descendants, among them a local cluster that it started.

    Where the system has no PSS (macOS) it is the sum of what each process has for itself. Of a cluster that was running
    before, it sees only the driver's own processes.
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
        own = psutil.Process()
        while True:
            self.peak = max(self.peak, sum(map(_bytes, (own, *own.children(recursive=True)))))
            if self._stop.wait(_SECONDS):
                return


def _bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it ended meanwhile, or is another user's
        return 0
    return int(getattr(memory, "pss", memory.uss))
