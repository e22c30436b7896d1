"""From predictions to every reported metric with its interval, and to the paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.catalogue.encoders import TitleEncoder
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation import bias, significance, whole_catalogue
from rosepo_ray.evaluation.per_row import Judged, RowTable, collect, judge
from rosepo_ray.evaluation.ranking_metrics import METRICS, RankingMetric
from rosepo_ray.evaluation.significance import Sums

NO_INTERVAL = "no interval: it is not a function of means over rows, and resampling users only ever loses items"
ONE_UNIT = "no interval: a bootstrap of one user cannot vary"
ONLY_SOME_DRAWS = "no interval: some bootstrap draws have no row that enters"


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of sums over rows; `entered` names the component whose non-zero rows it is made of."""

    compute: Callable[[Sums], np.ndarray]
    entered: str = "rows"
    needs: tuple[str, ...] = ()
    empty: str = "there is no row"


def _mean(component: str, entered: str = "rows", empty: str = "there is no row") -> Statistic:
    def compute(sums: Sums) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(sums[component] / sums[entered])

    return Statistic(compute, entered, (component, entered), empty)


WRITTEN: dict[str, Statistic] = {
    "semantic_over_selection": _mean("over_selected", "wrong", "no row has a wrong top-1"),
    "catalogue_ratio": _mean("in_catalogue"),
    "ambiguous_ratio": _mean("ambiguous"),
    "valid_ratio": _mean("valid"),
    "hr@1_valid": _mean("valid_hit", "valid", "no row names exactly one candidate"),
    "full_written_hr@1": _mean("full_written_hit", "full_rows"),
}
"""Metrics of titles and of written texts."""


def statistics(metrics: Sequence[RankingMetric]) -> dict[str, Statistic]:
    """Everything with an interval. What is called full_ is over the rows whose whole catalogue was ranked, `hr@1_valid`
    and `semantic_over_selection` over the rows that enter them, all others over ALL rows."""
    candidates = {metric.name: Statistic(metric.compute) for metric in metrics}
    whole = {
        metric.whole: Statistic(partial(metric.compute, prefix="full_"), "full_rows", ("full_rows",))
        for metric in metrics
    }
    return candidates | WRITTEN | whole


CONCENTRATION: dict[str, Callable[[np.ndarray], float]] = {"gini": bias.gini, "coverage": bias.coverage}
"""Metrics of the counts of recommended items [N], reported without interval: of the top-1 among the candidates, and
(full_...@10) of the ten best of the whole catalogue."""


def evaluate(
    predictions: Mapping[str, pa.Table],
    examples: pa.Table,
    items: pa.Table,
    sequences: pa.Table,
    encoder: TitleEncoder,
    *,
    listed: bool,
    draws: int,
    seed: int,
    metrics: tuple[RankingMetric, ...] = METRICS,
) -> dict[str, Any]:
    """Every metric of every model over ALL examples, with user-clustered paired 95 % intervals.

    Args:
        predictions: model name -> `predictions` table; each must answer every example exactly once.
        examples: the rows to judge (one split), schema `examples`.
        items: schema `items`; popularity counts the training split.
        sequences: schema `sequences`; the training split's group shares are noted beside the histories'.
        encoder: text space of `semantic_over_selection`.
        listed: the prompt lists the candidates (then a written title can be valid).
        draws: bootstrap draws of users.
        seed: seed of the draws.
        metrics: of the rankings.

    Returns:
        JSON-able: `models` name -> metric -> {value, low, high, rows[, reason]}, where value is null with a reason
        if the metric does not apply; `differences` `aligned-NAME` -> metric -> {value, low, high[, reason]};
        `target_arp`; `notes` (encoder, bootstrap, groups, what each kind of metric means).

    Raises:
        RosepoError: tables that do not belong together (see `components.judge` and `components.collect`).
    """
    judged = judge(examples, items, encoder, listed=listed, metrics=metrics)
    rows = {model: collect(model, table, judged) for model, table in predictions.items()}
    _refuse_other_rows(rows)
    result = summarise(rows, judged, draws=draws, seed=seed)
    result["notes"]["encoder"] = {"name": encoder.name, "description": encoder.description}
    result["notes"]["own_metrics"] = [metric.name for metric in metrics if metric not in METRICS]
    result["notes"]["groups"] = _groups(judged, sequences)
    return result


def _refuse_other_rows(rows: Mapping[str, RowTable]) -> None:
    """Models whose whole catalogue was ranked must share the rows for which it was."""
    ranked = {model: table.values["full_rows"] for model, table in rows.items() if "full_rows" in table.values}
    first = next(iter(ranked), None)
    for model, mask in ranked.items():
        if first is not None and not np.array_equal(mask, ranked[first]):
            raise RosepoError(
                f"'{model}' ranked the whole catalogue for other rows than '{first}'; the two cannot be compared"
            )


def summarise(
    rows: Mapping[str, RowTable], judged: Judged, *, draws: int, seed: int, focus: str = "aligned"
) -> dict[str, Any]:
    """:func:`evaluate` from row tables (of one training seed, or averaged); differences are `focus` - each other."""
    if not rows:
        raise RosepoError("no model was given to evaluate")
    users = judged.units
    units = users or [row["example_id"] for row in judged.examples]
    unit_count = len(set(units))
    drawn = significance.bootstrap({m: t.values for m, t in rows.items()}, units, draws=draws, seed=seed)
    figures = statistics(judged.metrics)
    models: dict[str, dict[str, dict[str, Any]]] = {}
    samples: dict[str, dict[str, np.ndarray]] = {}
    for model, table in rows.items():
        totals = significance.sums(table.values)
        models[model], samples[model] = {}, {}
        for name, statistic in figures.items():
            entry, sample = _entry(statistic, table, totals, drawn[model], unit_count)
            models[model][name] = entry
            if sample is not None:
                samples[model][name] = sample
        for name, measure in CONCENTRATION.items():
            value = float(np.mean([measure(counts) for counts in _recommended_counts(table, judged)]))
            models[model][name] = {"value": value, "low": None, "high": None, "rows": len(units), "reason": NO_INTERVAL}
            models[model][f"full_{name}@{whole_catalogue.TOP}"] = _full_concentration(
                measure, table, len(judged.item_index)
            )
        over_selection = models[model]["semantic_over_selection"]
        if over_selection["value"] is not None:
            over_selection["chance"] = float(totals["chance"][0] / totals["wrong"][0])
    targets = judged.popularity_N[judged.positions(row["target"] for row in judged.examples)]
    return {
        "models": models,
        "differences": {
            f"{focus}-{other}": _difference(models[focus], models[other], samples[focus], samples[other])
            for other in rows
            if focus in rows and other != focus
        },
        "target_arp": float(targets.mean()),
        "notes": _notes(judged, users is not None, unit_count, draws, seed),
    }


def _entry(
    statistic: Statistic, table: RowTable, totals: Sums, drawn: Sums, units: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    """{value, low, high, rows} and the value of each draw (None where there is no interval)."""
    nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "rows": 0}
    for component in statistic.needs:
        if component in table.absent:
            return nothing | {"reason": table.absent[component]}, None
    rows = int(np.count_nonzero(table.values[statistic.entered]))
    if rows == 0:
        return nothing | {"reason": statistic.empty}, None
    entry = nothing | {"value": float(statistic.compute(totals)[0]), "rows": rows}
    sample = statistic.compute(drawn)
    if units == 1:
        return entry | {"reason": ONE_UNIT}, None
    if np.isnan(sample).any():
        return entry | {"reason": ONLY_SOME_DRAWS}, None
    low, high = significance.interval(sample)
    return entry | {"low": low, "high": high}, sample


def _difference(
    first: Mapping[str, dict[str, Any]],
    second: Mapping[str, dict[str, Any]],
    first_sample: Mapping[str, np.ndarray],
    second_sample: Mapping[str, np.ndarray],
) -> dict[str, dict[str, Any]]:
    """first - second for each metric; the interval is that of the difference within each draw."""
    out: dict[str, dict[str, Any]] = {}
    for name in first:
        out[name] = {"value": None, "low": None, "high": None}
        reason = first[name].get("reason") or second[name].get("reason")
        if first[name]["value"] is not None and second[name]["value"] is not None:
            out[name]["value"] = first[name]["value"] - second[name]["value"]
        if name in first_sample and name in second_sample:
            low, high = significance.interval(first_sample[name] - second_sample[name])
            out[name] |= {"low": low, "high": high}
        elif reason:
            out[name]["reason"] = reason
    return out


def _recommended_counts(table: RowTable, judged: Judged) -> Sequence[np.ndarray]:
    """How often each item is the top-1, per training seed."""
    return [np.bincount(column, minlength=len(judged.item_index)) for column in table.recommended_RS.T]


def _full_concentration(measure: Callable[[np.ndarray], float], table: RowTable, catalogue: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": None, "low": None, "high": None, "rows": 0}
    if "full_rows" in table.absent:
        return entry | {"reason": table.absent["full_rows"]}
    per_seed = [top_RK[top_RK >= 0] for top_RK in table.full_RSK.transpose(1, 0, 2)]
    value = float(np.mean([measure(np.bincount(found, minlength=catalogue)) for found in per_seed]))
    rows = int(np.count_nonzero(table.values["full_rows"]))
    return entry | {"value": value, "rows": rows, "reason": NO_INTERVAL}


def _groups(judged: Judged, sequences: pa.Table) -> list[dict[str, Any]]:
    """The popularity groups, least popular first, and their shares: what MGU and DGU compare against."""
    shown = judged.positions(item for row in judged.examples for item in row["history"])
    histories = np.bincount(judged.group_N[shown], minlength=bias.GROUPS)
    targets = judged.group_N[judged.positions(row["target"] for row in judged.examples)]
    taken = [item for items in sequences.column("items").to_pylist() for item in items]
    unknown = set(taken) - judged.item_index.keys()
    if unknown:
        raise RosepoError(f"sequences hold {len(unknown)} items that are not in the items table, as {min(unknown)}")
    training = np.bincount(judged.group_N[judged.positions(taken)], minlength=bias.GROUPS)
    out = []
    for group in range(bias.GROUPS):
        counts = judged.popularity_N[judged.group_N == group]
        out.append(
            {
                "items": len(counts),
                "popularity_min": int(counts.min()) if len(counts) else None,
                "popularity_max": int(counts.max()) if len(counts) else None,
                "history_share": float(histories[group] / histories.sum()),
                "target_share": float((targets == group).mean()),
                "training_share": float(training[group] / training.sum()) if taken else None,
            }
        )
    return out


def _notes(judged: Judged, has_users: bool, units: int, draws: int, seed: int) -> dict[str, Any]:
    sizes = sorted({len(row["candidates"]) for row in judged.examples})
    return {
        "rows": len(judged.examples),
        "candidates": sizes[0] if len(sizes) == 1 else sizes,
        "bootstrap": {
            "unit": "user" if has_users else "row",
            "units": units,
            "draws": draws,
            "seed": seed,
            "interval": "percentile, 95 %, the same draws for all models",
            "remark": (
                "a user is drawn with all rows"
                if has_users
                else "the log has no user ids, so rows are resampled: too narrow if rows depend on each other"
            ),
        },
        "bias": (
            "popularity metrics judge the top-1 among the candidates, so they also measure the candidate sampler; "
            "popularity counts the training split; histories are those of the judged rows"
        ),
        "gini, coverage": NO_INTERVAL,
        "full_": (
            "the whole catalogue without what the user had taken before the position (with data.repeats keep all of "
            f"it), ranked exactly to place {whole_catalogue.TOP}; a target beyond is a miss; over a hashed sample of "
            "the judged rows (evaluation.catalogue_examples), the same for all models"
        ),
        "catalogue_ratio": "share of written titles that stand in the catalogue, ambiguous ones included",
        "hr@1_valid": "over the rows that name exactly one candidate; hr@1 is over all rows and from the ranking",
        "semantic_over_selection": (
            "over the rows with a wrong top-1: how often it is the wrong candidate nearest to the history in the "
            "encoder's space; chance is the mean of 1 / wrong candidates"
        ),
    }
