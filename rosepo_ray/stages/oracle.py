"""The preference oracle: trained on the users' sequences or found where it is, later given its temperature by
`calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.config.training import FitSettings
from rosepo_ray.oracle.protocol import Making, ScoringOracle, Train, Trained, Users
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from torch import nn

    from rosepo_ray.programs.oracle import OracleProgram
    from rosepo_ray.training.windows import Sequences
    from rosepo_ray.training.world import World


@dataclass(frozen=True)
class OracleResult:
    version: str
    steps: int
    final: dict[str, float] | None
    """The figures of the last step of the first module; None where nothing is trained."""


@stage(needs=("data",), wanted=lambda oracle: oracle.scores)
def oracle(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    data: DataSettings,
    oracle: ScoringOracle,
    cluster: ClusterSettings,
    run: RunSettings,
) -> OracleResult:
    """Make the preference oracle; leaves `oracle/` (weights and description, T = 1) and what was trained for it."""
    from rosepo_ray.oracle import store

    finals: list[tuple[int, dict[str, float]]] = []

    def train(name: str, module: Callable[[], nn.Module], users: Users, fit: FitSettings, steps: int) -> Trained:
        from rosepo_ray.on_ray import trainer
        from rosepo_ray.training import checkpoint

        folder = storage.join(out, name)
        build = partial(program, inputs["data"], module, users, fit, data.history, seed)
        finals.append((steps, trainer.train(f"oracle {name}", build, fit, steps, folder, cluster, run.grace_seconds)))
        trained = module()  # every weight is read from the file
        with storage.local_copy(storage.join(folder, "model")) as local:
            checkpoint.load_weights(trained, local / "weights.safetensors")
        return Trained(trained, sequences(inputs["data"], users).popularity())

    scorer = oracle.prepare(making(inputs["data"], data.history, seed, train))
    steps, final = finals[0] if finals else (0, None)
    return OracleResult(store.save(scorer, storage.join(out, "oracle")), steps, final)


def making(data: str, history: int, seed: int, train: Train) -> Making:
    """What a kind can make its oracle of, from the data stage's folder."""
    items = tables.read(data, "items", ["item_id", "popularity"])
    counts = items["popularity"].to_numpy().astype(np.int64)
    return Making(tuple(items["item_id"].to_pylist()), counts, history, seed, train)


def program(
    data: str, module: Callable[[], nn.Module], users: Users, fit: FitSettings, history: int, seed: int, world: World
) -> OracleProgram:
    """The program of one module on one worker."""
    from rosepo_ray.programs.oracle import OracleProgram

    return OracleProgram(sequences(data, users), module(), fit, history, seed, world)


def sequences(data: str, users: Users) -> Sequences:
    """The sequences that a module learns from."""
    from rosepo_ray.training.windows import Sequences

    item_ids = tables.read(data, "items", ["item_id"])["item_id"].to_pylist()
    found = Sequences.from_table(tables.read(data, "sequences"), item_ids)
    return found.select(users(found.user_ids.to_pylist()))
