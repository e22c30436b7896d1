"""The ranking of the whole catalogue without what the user had taken before, to the tenth place, as per-row numbers;
for the rows for which it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation.bias import GROUPS
from rosepo_ray.evaluation.ranking import place_metrics

TOP = 10
"""Places of the ranking that are kept. A target beyond them is a miss, and its reciprocal rank counts as 0."""
PLACES = {"hr@1": "hr@1", "hr@5": "hr@5", "hr@10": "hr@10", "ndcg@5": "ndcg@5", "ndcg@10": "ndcg@10", "mrr": "mrr@10"}
"""Metric of a place -> its name here, behind `full_`."""
NOT_RANKED = (
    "the whole catalogue was not ranked: evaluation.catalogue_examples is 0, or the prompt lists the candidates"
)
NOT_WRITTEN = "no title was written under the catalogue's constraint: evaluation.beams is 0, or as for full_hr@1"

_RANKED = ("full_rows", *(f"full_{name}" for name in PLACES.values()))
_OF_TOP = ("full_recommended_group", "full_history_group", "full_recommended_popularity", "full_target_popularity")


def components(
    model: str,
    rows: Sequence[dict[str, Any]],
    seen_R: np.ndarray,
    targets_R: np.ndarray,
    history_group_RG: np.ndarray,
    item_index: Mapping[str, int],
    popularity_N: np.ndarray,
    group_N: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, str]]:
    """Components [rows] or [rows, 5] (0 where a row's catalogue was not ranked), the recommended items' positions
    [rows, 10] (-1 likewise, and where fewer items are left), and component -> why it is absent. `seen_R` counts the
    items that each ranking leaves out.

    Raises RosepoError where a ranking names an item twice, one that is not in the catalogue, or too few.
    """
    ranked_R = np.array([row.get("top") is not None for row in rows])
    top_RK = np.full((len(rows), TOP), -1, np.int64)
    if not ranked_R.any():
        return {}, top_RK, {**dict.fromkeys((*_RANKED, *_OF_TOP), NOT_RANKED), "full_written_hit": NOT_WRITTEN}
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
    found_RK = top_RK == targets_R[:, None]
    places_R = np.where(found_RK.any(1), found_RK.argmax(1), np.inf)
    best_R = np.where(ranked_R, top_RK[:, 0], 0)
    values = {
        "full_rows": np.ones(len(rows)),
        **{f"full_{PLACES[name]}": value for name, value in place_metrics(places_R).items()},
        "full_recommended_group": np.eye(GROUPS)[group_N[best_R]],
        "full_history_group": history_group_RG,
        "full_recommended_popularity": popularity_N[best_R],
        "full_target_popularity": popularity_N[targets_R],
    }
    written = [row.get("written_item") for row in rows]
    absent = {}
    if any(item is not None for item in written):
        hits = [
            item is not None and item_index[item] == target for item, target in zip(written, targets_R, strict=True)
        ]
        values["full_written_hit"] = np.array(hits, np.float64)
    else:
        absent["full_written_hit"] = NOT_WRITTEN
    return {name: (value.T * ranked_R).T for name, value in values.items()}, top_RK, absent
