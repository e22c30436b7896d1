"""Where a run is kept and how it ends."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rosepo_ray.config.section import Section


class RunSettings(Section):
    dir: str | None = None
    """Run directory (path or URI). Default: a fresh one under runs/. The same directory again resumes the run."""
    stages: str | None = None
    """Where stages keep what they made, for all runs that want the same (path or URI). Default: `stages` beside the run
    directory."""
    log: Literal["human", "json"] = "human"
    """Lines of the terminal and of run.log: for people, or one JSON object a line."""
    grace_seconds: float = Field(15.0, gt=0)
    """After SIGTERM or Ctrl-C, how long training may take for a checkpoint before the job ends without one. Leaving the
    cluster takes some seconds more; Kubernetes kills after 30."""
