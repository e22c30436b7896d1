"""The oracle in this process: trained on the dataset's sequences, calibrated, and asked about pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.oracle import calibration, judging
from rosepo_ray.oracle.protocol import Making, Oracle, OracleSettings, ScoringOracle, Trained, Users
from rosepo_ray.programs.oracle import OracleProgram
from rosepo_ray.training import in_process
from rosepo_ray.training.windows import Sequences
from rosepo_ray.training.world import World

OnStep = Callable[[str, int, dict[str, float]], None]
"""Called after each step with what is trained, the step's number and its figures."""


def make(dataset: Dataset, settings: OracleSettings, seed: int, on_step: OnStep) -> Oracle | None:
    """The oracle with T = 1; None where the kind scores no items."""
    if not isinstance(settings, ScoringOracle):
        return None
    item_ids = dataset.catalogue.item_ids
    sequences = Sequences.from_table(dataset.sequences, item_ids)

    def train(name: str, module: Callable[[], nn.Module], users: Users, fit: FitSettings, steps: int) -> Trained:
        mine = sequences.select(users(sequences.user_ids.to_pylist()))
        program = OracleProgram(mine, module(), fit, dataset.history, seed, World())
        in_process.train(program, fit, steps, lambda step, figures: on_step(f"oracle {name}", step, figures))
        return Trained(program.module, mine.popularity())

    popularity = np.array(dataset.catalogue.popularity, np.int64)
    return settings.prepare(Making(tuple(item_ids), popularity, dataset.history, seed, train))


def calibrated(oracle: Oracle, pairs: Sequence[dict[str, Any]]) -> Oracle:
    """The oracle with the temperature that fits these pairs, which it must not have learned from. Raises BadInput where
    no rejected text of theirs is an item."""
    columns = ([pair[name] for pair in pairs] for name in ("user_id", "history", "chosen", "rejected"))
    known = judging.item_differences(oracle, judging.as_request(*columns)).items
    if not len(known):
        raise BadInput(
            "none of the rejected texts of the validation pairs is an item, so there is nothing to calibrate the "
            "oracle on; train SFT longer, mix in a strategy that picks items, or take oracle.type constant"
        )
    return oracle.with_temperature(calibration.fit_temperature(known))


def told(settings: OracleSettings, oracle: Oracle | None, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs, each with `epsilon` for its rejected texts and, where the kind scores items, `oracle_scores`."""
    answers = settings.epsilon_of(pairs, None if oracle is None else judging.here(oracle))
    found = (answers[pair["example_id"]] for pair in pairs)
    return [
        pair | {"epsilon": answer.epsilon, "oracle_scores": answer.scores}
        for pair, answer in zip(pairs, found, strict=True)
    ]
