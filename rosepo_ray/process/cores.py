"""The cores that a process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where it was bound to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
