"""The decision whether a challenger may replace a champion, from both models' predictions on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.catalogue.title_index import UNKNOWN
from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.errors import Refused
from rosepo_ray.evaluation import metrics, ranking_metrics, significance
from rosepo_ray.evaluation.bias import popularity_groups
from rosepo_ray.evaluation.ranking_metrics import Rankings

Compute = Callable[[significance.Sums], np.ndarray]

SEED = 0
"""Seed of the bootstrap: the same two versions always get the same decision."""


@dataclass(frozen=True)
class Evidence:
    """What a version's run keeps of its evaluation: tables of `schemas` (predictions, examples, items)."""

    predictions: pa.Table
    examples: pa.Table
    items: pa.Table


@dataclass(frozen=True)
class Gate:
    """One judged figure: challenger - champion with its 95 % interval, the bound it must keep, and whether it does."""

    name: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    bound: float
    lower_is_better: bool

    @property
    def passed(self) -> bool:
        return self.high <= self.bound if self.lower_is_better else self.low >= self.bound

    def sentence(self) -> str:
        limit = f"not {'above' if self.lower_is_better else 'below'} {self.bound:+.4g}"
        return (
            f"{self.name}: champion {self.champion:.4g}, challenger {self.challenger:.4g}, difference "
            f"{self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}], {limit}: {'pass' if self.passed else 'FAIL'}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def judge(champion: Evidence, challenger: Evidence, settings: PromotionSettings, draws: int = 2000) -> list[Gate]:
    """All gates on the rows that both versions answered, by a paired bootstrap of users.

    A metric may become worse by its margin at most: HR@1 by hr_margin [share of rows], the popularity gap |ARP - ARP of
    the targets| by gap_margin [training interactions], the share of written texts that name an item by writing_margin
    (where both models wrote texts), others as in `margins`. The worse end of the difference's interval must keep the
    bound: the percentile interval of `evaluation.significance`, a user drawn with all rows.

    Raises:
        Refused: the two were not judged on the same rows with the same candidates, targets and popularities.
        BadInput: a name in `margins` is no metric.
    """
    margins = {"hr@1": settings.hr_margin, "popularity_gap_abs": settings.gap_margin, **settings.margins}
    gated = {ranking_metrics.find(name): margin for name, margin in margins.items()}
    rows = _same_rows(champion, challenger)
    both = {"champion": champion, "challenger": challenger}
    models = {}
    for name, found in both.items():
        rankings = _rankings(found.predictions, rows, champion.items)
        models[name] = {"rows": np.ones(len(rows)), **ranking_metrics.components(gated, rankings)}
    computed: list[tuple[str, Compute, bool, float]] = [
        (metric.name, metric.compute, metric.lower_is_better, margin) for metric, margin in gated.items()
    ]
    if not any(found.predictions["outcome"].null_count for found in both.values()):
        for name, found in both.items():
            models[name]["in_catalogue"] = _in_catalogue(found.predictions, rows)
        writing = "catalogue_ratio"
        computed.append((writing, metrics.WRITTEN[writing].compute, False, settings.writing_margin))
    units = [row["user_id"] or row["example_id"] for row in rows]
    drawn = significance.bootstrap(models, units, draws=draws, seed=SEED)
    whole = {model: significance.sums(values) for model, values in models.items()}
    return [_gate(*one, whole, drawn) for one in computed]


def _in_catalogue(predictions: pa.Table, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Whether the text written for each row names an item, 0 or 1 [R]."""
    outcomes = dict(zip(predictions["example_id"].to_pylist(), predictions["outcome"].to_pylist(), strict=True))
    return np.array([outcomes[row["example_id"]] != UNKNOWN for row in rows], dtype=np.float64)


def _rankings(predictions: pa.Table, rows: Sequence[Mapping[str, Any]], items: pa.Table) -> Rankings:
    """What one model ranked. Raises Refused unless it answers each row once, with a ranking of its candidates."""
    answers = dict(zip(predictions["example_id"].to_pylist(), predictions["ranked"].to_pylist(), strict=True))
    if len(answers) != predictions.num_rows or answers.keys() != {row["example_id"] for row in rows}:
        raise Refused(
            f"{predictions.num_rows} stored predictions do not answer each of the {len(rows)} judged rows exactly "
            "once, so no figure can be trusted; evaluate that version again"
        )
    for row in rows:
        if sorted(answers[row["example_id"]]) != sorted(row["candidates"]):
            raise Refused(
                f"the stored ranking of row {row['example_id']} is not one of its candidates; evaluate that version "
                "again"
            )
    ids, popularity = items["item_id"].to_pylist(), items["popularity"].to_numpy().astype(np.float64)
    index = {item: position for position, item in enumerate(ids)}
    ranked = [answers[row["example_id"]] for row in rows]
    return ranking_metrics.rankings_of(rows, ranked, index, popularity, popularity_groups(ids, popularity))


def _same_rows(champion: Evidence, challenger: Evidence) -> list[dict[str, Any]]:
    """The judged rows, sorted by id, with the champion's histories. Raises Refused unless both versions have the same
    ones and the same items."""
    first, second = ({row["example_id"]: row for row in found.examples.to_pylist()} for found in (champion, challenger))
    if not first or first.keys() != second.keys():
        raise Refused(
            f"the champion was judged on {len(first)} rows and the challenger on {len(second)}, "
            f"{len(first.keys() & second.keys())} of them the same; both need the same log, split and data.seed"
        )
    fixed = itemgetter("user_id", "target", "candidates")
    changed = [row for row in first if fixed(first[row]) != fixed(second[row])]
    if changed:
        raise Refused(
            f"{len(changed)} rows, {min(changed)} among them, have other targets or candidates for the challenger "
            "than for the champion; both need the same log, split and data.seed"
        )
    counts = [
        dict(zip(found.items["item_id"].to_pylist(), found.items["popularity"].to_pylist(), strict=True))
        for found in (champion, challenger)
    ]
    if counts[0] != counts[1]:
        raise Refused(
            "the champion's items or their popularities differ from the challenger's, so popularity gaps cannot be "
            "compared; both need the same log and split"
        )
    return [first[row] for row in sorted(first)]


def _gate(
    name: str,
    compute: Compute,
    lower_is_better: bool,
    margin: float,
    whole: Mapping[str, significance.Sums],
    drawn: Mapping[str, significance.Sums],
) -> Gate:
    """One figure of both, and the interval of the difference within each draw."""
    champion, challenger = (float(compute(whole[model])[0]) for model in ("champion", "challenger"))
    low, high = significance.interval(compute(drawn["challenger"]) - compute(drawn["champion"]))
    bound = margin if lower_is_better else -margin
    return Gate(name, champion, challenger, challenger - champion, low, high, bound, lower_is_better)
