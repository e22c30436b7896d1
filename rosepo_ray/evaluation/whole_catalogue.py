"""The ranking of the whole catalogue without what the user had taken before, to the tenth place, as per-row numbers;
for the rows for which it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.ranking_metrics import RankingMetric, Rankings
from rosepo_ray.evaluation.ranking_metrics import components as parts_of

TOP = 10
"""Places of the ranking that are kept. A target beyond them is a miss, and its reciprocal rank counts as 0."""
NOT_RANKED = (
    "the whole catalogue was not ranked: evaluation.catalogue_examples is 0, or the prompt lists the candidates"
)
NOT_WRITTEN = "no title was written under the catalogue's constraint: evaluation.beams is 0, or as for full_hr@1"


def components(
    model: str,
    rows: Sequence[dict[str, Any]],
    seen_R: np.ndarray,
    candidates: Rankings,
    item_index: Mapping[str, int],
    metrics: Sequence[RankingMetric],
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, str]]:
    """Components [rows] or [rows, width] (0 where a row's catalogue was not ranked), the recommended items' positions
    [rows, 10] (-1 likewise, and where fewer items are left), and component -> why it is absent. `seen_R` counts the
    items that each ranking leaves out; `candidates` holds the same rows' rankings of their candidates.

    Raises RosepoError where a ranking names an item twice, one that is not in the catalogue, or too few.
    """
    ranked_R = np.array([row.get("top") is not None for row in rows])
    top_RK = np.full((len(rows), TOP), -1, np.int64)
    if not ranked_R.any():
        return {}, top_RK, {"full_rows": NOT_RANKED, "full_written_hit": NOT_WRITTEN}
    for number, row in enumerate(rows):
        top = row.get("top")
        if top is None:
            continue
        wanted = min(TOP, len(item_index) - int(seen_R[number]))
        if len(top) != wanted or len(set(top)) != wanted or not item_index.keys() >= set(top):
            raise RosepoError(
                f"model '{model}', row {row['example_id']}: its ranking of the whole catalogue must hold "
                f"{wanted} distinct items of it, but is {top}"
            )
        top_RK[number, :wanted] = [item_index[item] for item in top]
    here = np.flatnonzero(ranked_R)
    targets_R, histories_RG = candidates.targets_R, candidates.histories_RG
    ranked = replace(candidates, items_RK=top_RK[here], targets_R=targets_R[here], histories_RG=histories_RG[here])
    values = {"full_rows": ranked_R.astype(np.float64)}
    for name, value in parts_of(metrics, ranked, "full_").items():
        values[name] = np.zeros((len(rows), *value.shape[1:]))
        values[name][here] = value
    written = [row.get("written_item") for row in rows]
    absent = {}
    if any(item is not None for item in written):
        hits = [
            item is not None and item_index[item] == target for item, target in zip(written, targets_R, strict=True)
        ]
        values["full_written_hit"] = np.array(hits, np.float64) * ranked_R
    else:
        absent["full_written_hit"] = NOT_WRITTEN
    return values, top_RK, absent
