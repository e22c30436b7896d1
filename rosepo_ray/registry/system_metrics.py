"""The driver's machine (processors, memory, disk, network, GPU) in the parent run, by MLflow's own monitor."""

from __future__ import annotations

import os
from typing import Any

from rosepo_ray.registry.tracking import Tracker


class Monitor:
    """Runs between `start` and `stop`, as often as MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says (10 s); not at all with
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false, or without psutil."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._monitor: Any = None
        self._wanted = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() not in ("false", "0")

    def start(self) -> None:
        """Go on after the last figures that MLflow has; nothing where it runs already."""
        if self._monitor is not None or not self._wanted:
            return
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        except ImportError:
            self._wanted = False
            return
        self._monitor = SystemMetricsMonitor(
            self._tracker.run_id, resume_logging=True, tracking_uri=self._tracker.tracking_uri
        )
        self._monitor.start()

    def stop(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
