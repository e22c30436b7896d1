"""Rejection strategies: which item not taken stands as the rejected one of a pair. One file per strategy."""

from __future__ import annotations

from rosepo_ray.catalogue.encoders import build_encoder
from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.rejection import Popularity, SelfHard, Semantic, StrategySettings, Uniform
from rosepo_ray.rejection.base import NothingToReject, Pick, RejectionRow, Strategy
from rosepo_ray.rejection.mix import MixStrategy
from rosepo_ray.rejection.popularity import PopularityStrategy
from rosepo_ray.rejection.self_hard import SelfHardStrategy
from rosepo_ray.rejection.semantic import SemanticStrategy
from rosepo_ray.rejection.uniform import UniformStrategy

__all__ = ["Catalogue", "NothingToReject", "Pick", "RejectionRow", "Strategy", "build"]


def build(settings: StrategySettings, catalogue: Catalogue, encoder_name: str) -> Strategy:
    """The strategy of `rejection.strategy`; `encoder_name` (`rejection.encoder`) matters to `semantic` alone.

    Raises:
        BadInput: the encoder cannot be had, or the catalogue has nothing to draw from.
    """
    if isinstance(settings, SelfHard):
        return SelfHardStrategy(settings, catalogue)
    if isinstance(settings, Semantic):
        return SemanticStrategy(settings, catalogue, build_encoder(encoder_name, catalogue.titles))
    if isinstance(settings, Popularity):
        return PopularityStrategy(settings, catalogue)
    if isinstance(settings, Uniform):
        return UniformStrategy(catalogue)
    # Inside a mix the others run with their defaults: the mix has only weights.
    defaults: dict[str, SelfHard | Semantic | Popularity | Uniform] = {
        "self_hard": SelfHard(),
        "semantic": Semantic(type="semantic"),
        "popularity": Popularity(type="popularity"),
        "uniform": Uniform(type="uniform"),
    }
    weights = {name: float(getattr(settings, name)) for name in defaults}
    parts = {n: (build(defaults[n], catalogue, encoder_name), w) for n, w in weights.items() if w > 0}
    return MixStrategy(parts, catalogue)
