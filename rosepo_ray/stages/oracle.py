"""The preference oracle: trained on the users' sequences, later given its temperature by `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.kinds import OracleSettings, Sasrec
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.programs.oracle import OracleProgram
    from rosepo_ray.training.windows import Sequences
    from rosepo_ray.training.world import World


@dataclass(frozen=True)
class OracleResult:
    version: str
    steps: int
    final: dict[str, float] | None
    """The figures of the last step of the first fold; None where nothing is trained."""


@stage(needs=("data",), wanted=lambda oracle: oracle.scores)
def oracle(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    data: DataSettings,
    oracle: OracleSettings,
    cluster: ClusterSettings,
    run: RunSettings,
) -> OracleResult:
    """Train the preference oracle; leaves `oracle/` (weights and description, T = 1), for SASRec a folder a fold."""
    from rosepo_ray.oracle import store
    from rosepo_ray.oracle.model import PopularityScorer

    items = tables.read(inputs["data"], "items", ["item_id", "popularity"])
    item_ids = tuple(items["item_id"].to_pylist())
    if oracle.type == "popularity":
        counts = items["popularity"].to_numpy().astype(np.int64)
        version = store.save(PopularityScorer(item_ids, (counts,), 1.0, seed), storage.join(out, "oracle"))
        return OracleResult(version, 0, None)
    if not isinstance(oracle, Sasrec):
        raise RosepoError(f"an oracle of type {oracle.type} is not trained")
    from rosepo_ray.on_ray import trainer

    final = []
    for fold in range(oracle.folds):
        build = partial(program, inputs["data"], oracle, data.history, fold, seed)
        name = "oracle" if oracle.folds == 1 else f"oracle fold {fold}"
        fold_out = storage.join(out, f"fold{fold}")
        final.append(trainer.train(name, build, oracle, oracle.steps, fold_out, cluster, run.grace_seconds))
    scorer = _assemble(inputs["data"], oracle, data.history, seed, out, item_ids)
    return OracleResult(store.save(scorer, storage.join(out, "oracle")), oracle.steps, final[0])


def program(data: str, settings: Sasrec, history: int, fold: int, seed: int, world: World) -> OracleProgram:
    """The program of one fold on one worker."""
    from rosepo_ray.programs.oracle import OracleProgram

    item_ids = tuple(tables.read(data, "items", ["item_id"])["item_id"].to_pylist())
    return OracleProgram(_sequences(data, settings, fold, seed, item_ids), settings, history, fold, seed, world)


def _sequences(data: str, settings: Sasrec, fold: int, seed: int, item_ids: tuple[str, ...]) -> Sequences:
    from rosepo_ray.programs.oracle import fold_of_sequences
    from rosepo_ray.training.windows import Sequences

    sequences = Sequences.from_table(tables.read(data, "sequences"), item_ids)
    return fold_of_sequences(sequences, settings, fold, seed)


def _assemble(data: str, settings: Sasrec, history: int, seed: int, out: str, item_ids: tuple[str, ...]) -> Any:
    from rosepo_ray.oracle.model import SasrecScorer
    from rosepo_ray.oracle.sasrec import SasRec
    from rosepo_ray.programs.oracle import shape_of
    from rosepo_ray.training import checkpoint

    models, popularity = [], []
    for fold in range(settings.folds):
        model = SasRec(shape_of(settings, len(item_ids), history), 0)  # every weight is read from the file
        with storage.local_copy(storage.join(out, f"fold{fold}", "model")) as folder:
            checkpoint.load_weights(model, folder / "weights.safetensors")
        models.append(model)
        popularity.append(_sequences(data, settings, fold, seed, item_ids).popularity())
    return SasrecScorer.build(models, item_ids, popularity, seed)
