"""The record of a run in MLflow."""

from __future__ import annotations

from pydantic import Field

from rosepo_ray.config.section import Section


class MlflowSettings(Section):
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = Field("rosepo", min_length=1)
    """Experiment name."""
    model: str = Field("rosepo-recommender", pattern=r"^[^/:\s]([^/:]*[^/:\s])?$")
    """Registered model name. It stands in addresses, models:/NAME@champion, so it has no `/` and no `:`."""
