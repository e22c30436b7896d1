"""Which rows are judged, and for which of them the whole catalogue is ranked: fixed by data.seed, so that all training
seeds share them."""

from __future__ import annotations

import pyarrow as pa

from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.data.choice import Choice, choose


def judged(evaluation: EvaluationSettings, data: str | pa.Table, data_seed: int) -> Choice:
    """The examples to judge, of the data stage's folder or of its table `examples`."""
    return choose(data, {evaluation.split: evaluation.examples}, data_seed, "evaluation")


def ranked(evaluation: EvaluationSettings, data: str | pa.Table, data_seed: int, *, listed: bool) -> Choice:
    """Those of them whose whole catalogue is ranked; a prompt that lists its candidates (`listed`) can rank none."""
    limit = 0 if listed else evaluation.catalogue_examples
    if limit is None or (evaluation.examples is not None and evaluation.examples < limit):
        limit = evaluation.examples
    # The same purpose: the smaller sample lies within the larger.
    return choose(data, {evaluation.split: limit}, data_seed, "evaluation")


def judged_rows(evaluation: EvaluationSettings, data: str, data_seed: int) -> pa.Table:
    """The rows of `examples` that are judged."""
    return judged(evaluation, data, data_seed).all_rows(data)
