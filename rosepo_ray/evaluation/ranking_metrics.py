"""What a metric of rankings is, and all of them.

One metric is made for the rankings of the candidates and, under the name `full_…`, for those of the whole catalogue; it
stands in the summary and in MLflow, and may be a gate of promotion. It says which numbers a row gives, its parts, and
how the figure follows from their sums over rows: all that a bootstrap of users needs. Most are a mean of one number:

    LONG_TAIL = mean_of("long_tail@1", lambda rankings: rankings.group_N[rankings.top_R] == 0)
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rosepo_ray.errors import BadInput
from rosepo_ray.evaluation import bias
from rosepo_ray.evaluation.ranking import place_metrics
from rosepo_ray.evaluation.significance import Sums


@dataclass(frozen=True)
class Rankings:
    """What one model ranked for R rows. An item is its position in the items table [N]."""

    items_RK: np.ndarray
    """Best first; -1 behind the last where a row has fewer. Of the whole catalogue the first ten are kept."""
    targets_R: np.ndarray
    histories_RG: np.ndarray
    """How many items of the history are in each popularity group."""
    popularity_N: np.ndarray
    """Training interactions."""
    group_N: np.ndarray
    """Popularity group, 0 (least popular) to 4."""

    @property
    def top_R(self) -> np.ndarray:
        return self.items_RK[:, 0]

    @property
    def places_R(self) -> np.ndarray:
        """0-based place of the target; infinite where it is not among the items kept."""
        found_RK = self.items_RK == self.targets_R[:, None]
        return np.where(found_RK.any(1), found_RK.argmax(1), np.inf)


def rankings_of(
    rows: Sequence[Mapping[str, Any]],
    ranked: Sequence[Sequence[str]],
    item_index: Mapping[str, int],
    popularity_N: np.ndarray,
    group_N: np.ndarray,
) -> Rankings:
    """The rankings `ranked` (item ids, best first) of rows of `examples`."""
    items_RK = np.full((len(rows), max(map(len, ranked))), -1, np.int64)
    for number, items in enumerate(ranked):
        items_RK[number, : len(items)] = [item_index[item] for item in items]
    histories = [np.bincount(group_N[[item_index[i] for i in row["history"]]], minlength=bias.GROUPS) for row in rows]
    targets_R = np.array([item_index[row["target"]] for row in rows])
    return Rankings(items_RK, targets_R, np.stack(histories).astype(np.float64), popularity_N, group_N)


Parts = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RankingMetric:
    """See the module's text."""

    name: str
    parts: Callable[[Rankings], Parts]
    """Finite numbers of each row, by name: [R] or [R, width]."""
    figure: Callable[[Sums], np.ndarray]
    """From the sums of the parts, [draws] or [draws, width], and of `rows`, to the metric [draws]."""
    whole: str
    """Its name for the whole catalogue."""
    lower_is_better: bool = False

    def components(self, rankings: Rankings, prefix: str = "") -> dict[str, np.ndarray]:
        """The parts under names that no other metric has."""
        return {
            f"{prefix}{self.name}:{part}": np.asarray(values, np.float64)
            for part, values in self.parts(rankings).items()
        }

    def compute(self, sums: Sums, prefix: str = "") -> np.ndarray:
        """The figure from the sums of `components` and of `PREFIXrows`; NaN for a draw without rows."""
        start = f"{prefix}{self.name}:"
        own = {name.removeprefix(start): values for name, values in sums.items() if name.startswith(start)}
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.figure(own | {"rows": sums[f"{prefix}rows"]}))


def mean_of(
    name: str,
    value_R: Callable[[Rankings], np.ndarray],
    *,
    whole: str | None = None,
    lower_is_better: bool = False,
) -> RankingMetric:
    """The metric that is the mean over rows of one number per row."""

    def mean(sums: Sums) -> np.ndarray:
        return np.asarray(sums["value"] / sums["rows"])

    return RankingMetric(name, lambda r: {"value": value_R(r)}, mean, whole or f"full_{name}", lower_is_better)


def _place_metric(name: str) -> RankingMetric:
    # Where ten places are kept, a reciprocal rank beyond counts as 0: its name says so.
    whole = f"full_{name}@10" if name == "mrr" else None
    return mean_of(name, lambda rankings: place_metrics(rankings.places_R)[name], whole=whole)


def _popularities(rankings: Rankings) -> Parts:
    popularity_N = rankings.popularity_N
    return {"recommended": popularity_N[rankings.top_R], "target": popularity_N[rankings.targets_R]}


def _gap(sums: Sums) -> np.ndarray:
    return np.asarray((sums["recommended"] - sums["target"]) / sums["rows"])


def _groups(rankings: Rankings) -> Parts:
    recommended_RG = np.eye(bias.GROUPS)[rankings.group_N[rankings.top_R]]
    return {"recommended": recommended_RG, "history": rankings.histories_RG}


def _unfairness(measure: Callable[[np.ndarray, np.ndarray], np.ndarray], sums: Sums) -> np.ndarray:
    return measure(sums["recommended"], sums["history"])


METRICS: tuple[RankingMetric, ...] = (
    *map(_place_metric, ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")),
    mean_of("arp", lambda rankings: rankings.popularity_N[rankings.top_R], lower_is_better=True),
    RankingMetric("popularity_gap", _popularities, _gap, "full_popularity_gap", True),
    RankingMetric(
        "popularity_gap_abs", _popularities, lambda sums: np.abs(_gap(sums)), "full_popularity_gap_abs", True
    ),
    RankingMetric("mgu@1", _groups, partial(_unfairness, bias.mgu), "full_mgu@1", True),
    RankingMetric("dgu@1", _groups, partial(_unfairness, bias.dgu), "full_dgu@1", True),
)
"""The project's own, in the order in which they are reported."""


def find(name: str) -> RankingMetric:
    """A metric of `METRICS` by its name, or one outside this package by its import path `module:NAME`.

    Raises BadInput where there is none.
    """
    known = {metric.name: metric for metric in METRICS}
    if name in known:
        return known[name]
    if ":" not in name:
        raise BadInput(f"the metric '{name}' is none of {', '.join(known)}, and no import path module:NAME")
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # whatever the user's module raises
        raise BadInput(
            f"the metric '{name}' cannot be imported ({type(error).__name__}: {error}); give module:NAME, and put the "
            "module's folder on PYTHONPATH"
        ) from error
    if not isinstance(found, RankingMetric):
        raise BadInput(f"'{name}' is a {type(found).__name__} and no RankingMetric; see docs/extending.md")
    if not re.fullmatch(r"[a-z0-9_@]+", found.name):
        raise BadInput(f"'{name}' is called '{found.name}'; give it a name of a-z, 0-9, _ and @")
    return found


def with_own(names: Sequence[str]) -> tuple[RankingMetric, ...]:
    """The project's metrics and those of `evaluation.metrics`. Raises BadInput where a name comes twice."""
    metrics = (*METRICS, *map(find, names))
    reported = [name for metric in metrics for name in (metric.name, metric.whole)]
    twice = sorted({name for name in reported if reported.count(name) > 1})
    if twice:
        raise BadInput(f"evaluation.metrics would report {twice[0]} twice; give each metric once, under its own name")
    return metrics


def components(metrics: Iterable[RankingMetric], rankings: Rankings, prefix: str = "") -> dict[str, np.ndarray]:
    """The components of all metrics."""
    return {name: value for metric in metrics for name, value in metric.components(rankings, prefix).items()}
