"""Policies judged on held-out rows in this process, with the metrics and intervals of the evaluation stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rosepo_ray.catalogue.encoders import build_encoder
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.data.protocol.seen import seen_items
from rosepo_ray.errors import BadInput
from rosepo_ray.evaluation import controls, judged_rows, metrics, ranking_metrics
from rosepo_ray.evaluation.evaluator import Evaluator
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.oracle.protocol import Oracle
from rosepo_ray.policy.model import Policy
from rosepo_ray.storage import tables

_ROWS_AT_ONCE = 256


def evaluate(
    dataset: Dataset, models: Mapping[str, Policy | Oracle], *, seed: int = 1, **settings: Any
) -> dict[str, Any]:
    """Every metric of every model, and of `popular`, on the same rows, as `rosepo_ray.metrics.evaluate` gives them:
    `models` name -> metric -> value, low, high.

    `settings` are those of a recipe's section `evaluation`. A model called `aligned` is compared with the others.
    Raises BadInput where the split has no rows.
    """
    chosen = EvaluationSettings(**settings)
    listed = any(isinstance(model, Policy) and model.prompt.list_candidates for model in models.values())
    mask = judged_rows.judged(chosen, dataset.examples, dataset.seed).mask(dataset.examples)
    examples = dataset.examples.filter(pa.array(mask))
    if not examples.num_rows:
        raise BadInput(f"the {chosen.split} split has no examples, so nothing can be evaluated")
    ranked = judged_rows.ranked(chosen, dataset.examples, dataset.seed, listed=listed).mask(examples)
    items = pa.array(seen_items(examples, dataset.taken), pa.list_(pa.string()), mask=~ranked)
    rows = examples.append_column("left_out", items)
    seen = {row["example_id"]: row["left_out"] for row in rows.to_pylist() if row["left_out"] is not None}
    predictions = {"popular": controls.popular(examples, dataset.items, seen)}
    for name, model in models.items():
        if isinstance(model, Policy):
            predictions[name] = _answers(model, dataset, rows, chosen)
        else:
            predictions[name] = controls.oracle(model, examples, dataset.items, seen)
    encoder = build_encoder(chosen.encoder, list(dataset.catalogue.titles))
    return metrics.evaluate(
        predictions,
        examples,
        dataset.items,
        dataset.sequences,
        encoder,
        listed=listed,
        draws=chosen.draws,
        seed=seed,
        metrics=ranking_metrics.with_own(chosen.metrics),
    )


def _answers(policy: Policy, dataset: Dataset, rows: pa.Table, chosen: EvaluationSettings) -> pa.Table:
    catalogue = dataset.catalogue
    evaluator = Evaluator(policy, catalogue.item_ids, catalogue.titles, chosen, ScoringSettings())
    parts = [rows[start : start + _ROWS_AT_ONCE].to_pylist() for start in range(0, rows.num_rows, _ROWS_AT_ONCE)]
    return tables.from_rows("predictions", [row for part in parts for row in evaluator.predictions(part)])
