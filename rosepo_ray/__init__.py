"""RosePO (arXiv:2410.12519) as a Ray pipeline: align an LLM-based recommender with what its users value.

The names below are the library; docs/library.md says how they are used. Each is imported when it is first asked for, so
`import rosepo_ray` loads neither torch nor Ray.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rosepo_ray import losses
    from rosepo_ray import oracle as oracles
    from rosepo_ray import rejection as strategies
    from rosepo_ray.catalogue.items import Catalogue
    from rosepo_ray.errors import BadInput, RosepoError
    from rosepo_ray.evaluation import metrics
    from rosepo_ray.library.align import Aligned, align
    from rosepo_ray.library.dataset import Dataset
    from rosepo_ray.library.evaluate import evaluate
    from rosepo_ray.library.policy import Policy

__version__ = "0.1.0"
__all__ = [
    "Aligned",
    "BadInput",
    "Catalogue",
    "Dataset",
    "Policy",
    "RosepoError",
    "align",
    "evaluate",
    "losses",
    "metrics",
    "oracles",
    "strategies",
]

_PLACES = {
    "Aligned": "rosepo_ray.library.align:Aligned",
    "BadInput": "rosepo_ray.errors:BadInput",
    "Catalogue": "rosepo_ray.catalogue.items:Catalogue",
    "Dataset": "rosepo_ray.library.dataset:Dataset",
    "Policy": "rosepo_ray.library.policy:Policy",
    "RosepoError": "rosepo_ray.errors:RosepoError",
    "align": "rosepo_ray.library.align:align",
    "evaluate": "rosepo_ray.library.evaluate:evaluate",
    "losses": "rosepo_ray.losses",
    "metrics": "rosepo_ray.evaluation.metrics",
    "oracles": "rosepo_ray.oracle",
    "strategies": "rosepo_ray.rejection",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'rosepo_ray' has no attribute {name!r}")
    found = globals()[name] = pkgutil.resolve_name(_PLACES[name])
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
