"""Rejection strategies: which item not taken stands as the rejected one of a pair. One file per strategy."""

from rosepo_ray.rejection.base import Answers, Ask, Pick, RejectionRow, Strategy, StrategySettings
from rosepo_ray.rejection.generated import Generated
from rosepo_ray.rejection.mix import Mix
from rosepo_ray.rejection.popularity import Popularity
from rosepo_ray.rejection.self_hard import SelfHard
from rosepo_ray.rejection.semantic import Semantic
from rosepo_ray.rejection.uniform import Uniform

__all__ = [
    "Answers",
    "Ask",
    "Generated",
    "Mix",
    "Pick",
    "Popularity",
    "RejectionRow",
    "SelfHard",
    "Semantic",
    "Strategy",
    "StrategySettings",
    "Uniform",
]
