"""Between passes B and C: items and users with too few interactions leave the log until none has (a k-core).

Which users stay follows from which items do, so a mask over the catalogue is all that goes from round to round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from rosepo_ray.data.protocol import selection
from rosepo_ray.on_ray import log_build
from rosepo_ray.on_ray.log_plan import Plan


def trim(plan: Plan, items: pa.Table) -> tuple[Plan, pa.Table, list[dict[str, Any]]]:
    """The plan for the partitions that are left, the items that are left, and what `order_partition` says of each
    partition, with the number of interactions that are gone as `rare`."""
    alive_I, before = np.ones(len(items), bool), 0
    while alive_I.sum() != before:
        before = alive_I.sum()
        counts_I = sum(log_build.each(_count, plan, alive_I))
        alive_I = alive_I & (counts_I >= plan.data.min_item)
    left = items.filter(pa.array(alive_I))
    trimmed = replace(plan, ordered="core", catalogue=ray.put(left["item_id"].combine_chunks()))
    return trimmed, left, list(log_build.each(_write, plan, trimmed, alive_I))


def _count(plan: Plan, index: int, alive_I: np.ndarray) -> np.ndarray:
    log = log_build.read_log(plan, index)
    chosen_N = selection.frequent(log, alive_I, plan.data.min_user) & log.kept_N
    return np.bincount(log.item_N[chosen_N], minlength=len(alive_I))


def _write(plan: Plan, index: int, trimmed: Plan, alive_I: np.ndarray) -> dict[str, Any]:
    log = log_build.read_log(plan, index)
    left = selection.subset(log, selection.frequent(log, alive_I, plan.data.min_user))
    place_I = (np.cumsum(alive_I) - 1).astype(np.int32)
    left = replace(left, item_N=place_I[left.item_N])
    log_build.write_log(trimmed, index, left)
    return {**log_build.described(left), "rare": len(log.user_N) - len(left.user_N)}
