"""The training of SASRec: from windows of users' sequences to the next item of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rosepo_ray.oracle.kinds import Sasrec
from rosepo_ray.oracle.model import training_users
from rosepo_ray.oracle.sasrec import SasRec, Shape
from rosepo_ray.programs.oracle_rows import WindowRows
from rosepo_ray.seeds import derive
from rosepo_ray.training.checkpoint import trainable
from rosepo_ray.training.order import steps
from rosepo_ray.training.program import MicroBatch, Plain
from rosepo_ray.training.windows import Sequences
from rosepo_ray.training.world import World


def fold_of_sequences(sequences: Sequences, settings: Sasrec, fold: int, seed: int) -> Sequences:
    """The users that the model of `fold` learns from."""
    return sequences.select(training_users(sequences.user_ids.to_pylist(), fold, settings.folds, seed))


def shape_of(settings: Sasrec, items: int, history: int) -> Shape:
    return Shape(items, history, settings.hidden, settings.layers, settings.heads, settings.dropout)


class OracleProgram(Plain):
    """Cross-entropy over the whole catalogue; the denominator of the loss is the global number of targets."""

    def __init__(
        self, sequences: Sequences, settings: Sasrec, history: int, fold: int, seed: int, world: World
    ) -> None:
        """`sequences` of the users that `fold` learns from."""
        super().__init__()
        self.settings, self.seed, self.world = settings, seed, world
        self.rows = WindowRows(sequences, history, seed)
        self.module = SasRec(shape_of(settings, sequences.catalogue, history), derive(seed, "fold", fold))

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        for part in steps(
            self.rows.row_ids,
            seed=self.seed,
            batch=self.settings.batch,
            rank=self.world.rank,
            world=self.world.size,
            start=start,
        ):
            yield self.rows.micro_batches(part.rows, self.settings.micro_batch, part.real)

    def loss(self, outputs: tuple[Tensor, Tensor], micro: MicroBatch) -> tuple[Tensor, dict[str, float]]:
        return outputs[0], {}

    def save(self, folder: Path) -> None:
        save_file(trainable(self.module), folder / "weights.safetensors")
