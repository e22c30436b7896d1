"""The preference oracle: trained on the users' sequences, later given its temperature by `calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_ray import storage
from rosepo_ray.config.oracle import SasrecOracle
from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import RosepoError
from rosepo_ray.on_ray import trainer
from rosepo_ray.seeds import derive
from rosepo_ray.storage import tables


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Leaves `oracle/` (weights and description, T = 1), one training folder per fold beside it for SASRec."""
    from rosepo_ray.oracle import store
    from rosepo_ray.oracle.model import PopularityScorer

    items = tables.read(inputs["data"], "items", ["item_id", "popularity"])
    item_ids = tuple(items["item_id"].to_pylist())
    if settings.oracle.type == "popularity":
        counts = items["popularity"].to_numpy().astype(np.int64)
        version = store.save(PopularityScorer(item_ids, (counts,), 1.0, settings.seed), storage.join(out, "oracle"))
        return {"version": version, "steps": 0}
    if not isinstance(settings.oracle, SasrecOracle):
        raise RosepoError(f"an oracle of type {settings.oracle.type} is not trained")
    for fold in range(settings.oracle.folds):
        arguments = {"settings": settings, "data": inputs["data"], "fold": fold}
        fold_out = storage.join(out, f"fold{fold}")
        name = "oracle" if settings.oracle.folds == 1 else f"oracle fold {fold}"
        trainer.run(name, settings, settings.oracle, settings.oracle.steps, __name__, arguments, fold_out)
    version = store.save(_assemble(settings, inputs["data"], out, item_ids), storage.join(out, "oracle"))
    final = trainer.read_metrics(storage.join(out, "fold0"))[-1]
    return {"version": version, "steps": settings.oracle.steps, "final": final}


def _assemble(settings: Settings, data: str, out: str, item_ids: tuple[str, ...]) -> Any:
    from rosepo_ray.oracle.model import SasrecScorer
    from rosepo_ray.oracle.sasrec import SasRec
    from rosepo_ray.training import checkpoint

    models, popularity = [], []
    for fold in range(settings.oracle.folds):  # type: ignore[union-attr]
        sequences, shape = _sequences(settings, data, fold, item_ids)
        model = SasRec(shape, 0)  # every weight is read from the file
        with storage.local_copy(storage.join(out, f"fold{fold}", "model")) as folder:
            checkpoint.load_weights(model, folder / "weights.safetensors")
        models.append(model)
        popularity.append(sequences.popularity())
    return SasrecScorer.build(models, item_ids, popularity, settings.seed)


def _sequences(settings: Settings, data: str, fold: int, item_ids: tuple[str, ...]) -> tuple[Any, Any]:
    from rosepo_ray.oracle.model import training_users
    from rosepo_ray.oracle.sasrec import Shape
    from rosepo_ray.training.windows import Sequences

    oracle = settings.oracle
    assert isinstance(oracle, SasrecOracle)
    sequences = Sequences.from_table(tables.read(data, "sequences"), item_ids)
    users = training_users(sequences.user_ids.to_pylist(), fold, oracle.folds, settings.seed)
    shape = Shape(len(item_ids), settings.data.history, oracle.hidden, oracle.layers, oracle.heads, oracle.dropout)
    return sequences.select(users), shape


class OracleProgram:
    """SASRec's training; the denominator of the loss is the global number of targets."""

    def __init__(self, settings: Settings, data: str, fold: int, world: Any) -> None:
        from rosepo_ray.oracle.sasrec import SasRec
        from rosepo_ray.programs.oracle_rows import WindowRows

        self.settings, self.world = settings, world
        item_ids = tuple(tables.read(data, "items", ["item_id"])["item_id"].to_pylist())
        sequences, shape = _sequences(settings, data, fold, item_ids)
        self.rows = WindowRows(sequences, settings.data.history, settings.seed)
        self.module = SasRec(shape, derive(settings.seed, "fold", fold))

    def batches(self, start: int) -> Iterator[list[Any]]:
        from rosepo_ray.training.order import steps

        oracle = self.settings.oracle
        assert isinstance(oracle, SasrecOracle)
        for part in steps(
            self.rows.row_ids,
            seed=self.settings.seed,
            batch=oracle.batch,
            rank=self.world.rank,
            world=self.world.size,
            start=start,
        ):
            yield self.rows.micro_batches(part.rows, oracle.micro_batch, part.real)

    def loss(self, outputs: Any, micro: Any) -> tuple[Any, dict[str, float]]:
        return outputs[0], {}

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        from rosepo_ray.training.checkpoint import trainable

        save_file(trainable(self.module), folder / "weights.safetensors")


def program(arguments: dict[str, Any], world: Any) -> OracleProgram:
    return OracleProgram(**arguments, world=world)
