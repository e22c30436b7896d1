"""The decision whether a challenger may replace a champion, from both models' predictions on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.errors import Refused
from rosepo_ray.evaluation import significance
from rosepo_ray.evaluation.ranking import place_metrics

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
    passed: bool

    def sentence(self) -> str:
        limit = f"not below {self.bound:+.4g}" if self.name == "hr@1" else f"not above {self.bound:+.4g}"
        return (
            f"{self.name}: champion {self.champion:.4g}, challenger {self.challenger:.4g}, difference "
            f"{self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}], {limit}: {'pass' if self.passed else 'FAIL'}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(champion: Evidence, challenger: Evidence, settings: PromotionSettings, draws: int = 2000) -> list[Gate]:
    """Both gates on the rows that both versions answered, by a paired bootstrap of users.

    HR@1 [share of rows]: the lower end of the difference must be at least -hr_margin. Popularity gap |ARP - ARP of the
    targets| [training interactions]: the upper end of its growth must be at most gap_margin. The interval is the
    percentile interval of `evaluation.significance`, a user drawn with all rows.

    Raises:
        Refused: the two were not judged on the same rows with the same candidates, targets and popularities.
    """
    rows = _same_rows(champion, challenger)
    popularity = dict(zip(*(champion.items[name].to_pylist() for name in ("item_id", "popularity")), strict=True))
    models = {
        "champion": components(champion.predictions, rows, popularity),
        "challenger": components(challenger.predictions, rows, popularity),
    }
    units = [row["user_id"] or row["example_id"] for row in rows]
    drawn = significance.bootstrap(models, units, draws=draws, seed=SEED)
    whole = {model: significance.sums(values) for model, values in models.items()}
    hr, gap = (_difference(name, whole, drawn) for name in ("hr@1", "gap"))
    return [
        Gate("hr@1", *hr, bound=-settings.hr_margin, passed=hr[3] >= -settings.hr_margin),
        Gate("popularity_gap_abs", *gap, bound=settings.gap_margin, passed=gap[4] <= settings.gap_margin),
    ]


def components(
    predictions: pa.Table, rows: Sequence[Mapping[str, Any]], popularity: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Per-row values [rows] of one model: a hit of the target at the top, popularity of the top and of the target.

    Raises Refused unless the predictions answer each row exactly once with a ranking of its candidates.
    """
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
    places = np.array([answers[row["example_id"]].index(row["target"]) for row in rows])
    return {
        "rows": np.ones(len(rows)),
        "hr@1": place_metrics(places)["hr@1"],
        "top": np.array([popularity[answers[row["example_id"]][0]] for row in rows], dtype=np.float64),
        "target": np.array([popularity[row["target"]] for row in rows], dtype=np.float64),
    }


def _same_rows(champion: Evidence, challenger: Evidence) -> list[dict[str, Any]]:
    """The judged rows, sorted by id. Raises Refused unless both versions have the same ones and the same items."""
    columns = ["example_id", "user_id", "target", "candidates"]
    first, second = (
        {row["example_id"]: row for row in found.examples.select(columns).to_pylist()}
        for found in (champion, challenger)
    )
    if not first or first.keys() != second.keys():
        raise Refused(
            f"the champion was judged on {len(first)} rows and the challenger on {len(second)}, "
            f"{len(first.keys() & second.keys())} of them the same; both need the same log, split and data.seed"
        )
    changed = [row for row in first if first[row] != second[row]]
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


def _difference(
    name: str, whole: Mapping[str, significance.Sums], drawn: Mapping[str, significance.Sums]
) -> tuple[float, float, float, float, float]:
    """(champion, challenger, difference, low, high) of one figure, the interval within each draw."""
    values = {model: float(_figure(name, sums)[0]) for model, sums in whole.items()}
    low, high = significance.interval(_figure(name, drawn["challenger"]) - _figure(name, drawn["champion"]))
    return values["champion"], values["challenger"], values["challenger"] - values["champion"], low, high


def _figure(name: str, sums: significance.Sums) -> np.ndarray:
    """HR@1, or |ARP - ARP of the targets|, one value per draw."""
    if name == "hr@1":
        return np.asarray(sums["hr@1"] / sums["rows"])
    return np.abs((sums["top"] - sums["target"]) / sums["rows"])
