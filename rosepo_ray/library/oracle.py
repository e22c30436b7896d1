"""The oracle in this process: trained on the dataset's sequences, calibrated, and asked about pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rosepo_ray.errors import BadInput
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.oracle import calibration, judging, smoothing
from rosepo_ray.oracle.kinds import Constant, OracleSettings, Popularity, Sasrec, ScoringOracle
from rosepo_ray.oracle.model import Oracle, PopularityScorer, SasrecScorer
from rosepo_ray.programs.oracle import OracleProgram, fold_of_sequences
from rosepo_ray.training import in_process
from rosepo_ray.training.windows import Sequences
from rosepo_ray.training.world import World

OnStep = Callable[[str, int, dict[str, float]], None]
"""Called after each step with what is trained, the step's number and its figures."""


def make(dataset: Dataset, settings: OracleSettings, seed: int, on_step: OnStep) -> Oracle | None:
    """The oracle with T = 1; None where the kind asks nobody. Raises BadInput for a kind that lives elsewhere."""
    item_ids = dataset.catalogue.item_ids
    if isinstance(settings, Constant):
        return None
    if isinstance(settings, Popularity):
        return PopularityScorer(item_ids, (np.array(dataset.catalogue.popularity, np.int64),), 1.0, seed)
    if not isinstance(settings, Sasrec):
        raise BadInput(f"oracle.type {settings.type} is for the pipeline; in one process take sasrec or popularity")
    sequences = Sequences.from_table(dataset.sequences, item_ids)
    models, popularity = [], []
    for fold in range(settings.folds):
        mine = fold_of_sequences(sequences, settings, fold, seed)
        program = OracleProgram(mine, settings, dataset.history, fold, seed, World())
        in_process.train(program, settings, settings.steps, lambda step, figures: on_step("oracle", step, figures))
        models.append(program.module)
        popularity.append(mine.popularity())
    return SasrecScorer.build(models, item_ids, popularity, seed)


def calibrated(oracle: Any, pairs: Sequence[dict[str, Any]]) -> Any:
    """The oracle with the temperature that fits these pairs, which it must not have learned from."""
    differences = np.concatenate(judging.differences(oracle, _request(pairs))[0])
    return oracle.with_temperature(calibration.fit_temperature(differences[~np.isnan(differences)]))


def with_smoothing(
    settings: OracleSettings, oracle: Oracle | None, pairs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The pairs, each with `epsilon` for its rejected texts."""
    if oracle is None or not isinstance(settings, ScoringOracle):
        return [pair | {"epsilon": [settings.largest_epsilon] * len(pair["rejected"])} for pair in pairs]
    doubts = judging.judge(oracle, _request(pairs))["disagreement"]
    told = []
    for pair, doubt in zip(pairs, doubts, strict=True):
        is_item = np.array([item is not None for item in pair["rejected"]])
        told.append(pair | {"epsilon": smoothing.clip(np.array(doubt), is_item, settings.epsilon_max).tolist()})
    return told


def _request(pairs: Sequence[dict[str, Any]]) -> judging.JudgeRequest:
    return judging.as_request(
        *[[pair[name] for pair in pairs] for name in ("user_id", "history", "chosen", "rejected")]
    )
