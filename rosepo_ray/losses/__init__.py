"""Preference objectives: one per file, found by the `type` of `align.objective`."""

from rosepo_ray.losses.conservative import Conservative
from rosepo_ray.losses.dr_dpo import DrDpo
from rosepo_ray.losses.objective import Objective, ObjectiveSettings, Pairs
from rosepo_ray.losses.robust import Robust
from rosepo_ray.losses.simpo import Simpo

__all__ = ["Conservative", "DrDpo", "Objective", "ObjectiveSettings", "Pairs", "Robust", "Simpo"]
