"""What gives a pair its smoothing factor: one kind per file, found by the `type` of `oracle`."""

from rosepo_ray.oracle.constant import Constant
from rosepo_ray.oracle.http import Http
from rosepo_ray.oracle.popularity import Popularity
from rosepo_ray.oracle.protocol import Making, Oracle, OracleSettings, ScoringOracle
from rosepo_ray.oracle.replay import Replay
from rosepo_ray.oracle.sasrec import Sasrec

__all__ = [
    "Constant",
    "Http",
    "Making",
    "Oracle",
    "OracleSettings",
    "Popularity",
    "Replay",
    "Sasrec",
    "ScoringOracle",
]
