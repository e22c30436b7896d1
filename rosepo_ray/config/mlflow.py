"""The record of a run in MLflow."""

from __future__ import annotations

from rosepo_ray.config.section import Section


class MlflowSettings(Section):
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = "rosepo"
    """Experiment name."""
    model: str = "rosepo-recommender"
    """Registered model name."""
