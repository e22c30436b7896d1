"""Training to predict the next item: from windows of users' sequences to the next item of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from rosepo_ray.config.training import FitSettings
from rosepo_ray.programs.oracle_rows import WindowRows
from rosepo_ray.training.checkpoint import trainable
from rosepo_ray.training.order import steps
from rosepo_ray.training.program import MicroBatch, Plain
from rosepo_ray.training.windows import Sequences
from rosepo_ray.training.world import World


class OracleProgram(Plain):
    """The summed loss of the module over the global number of targets."""

    def __init__(
        self, sequences: Sequences, module: nn.Module, fit: FitSettings, history: int, seed: int, world: World
    ) -> None:
        """`sequences` of the users that `module` learns from; it maps `sasrec_net.Inputs` to (summed loss, targets)."""
        super().__init__()
        self.fit, self.seed, self.world, self.module = fit, seed, world, module
        self.rows = WindowRows(sequences, history, seed)

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        for part in steps(
            self.rows.row_ids,
            seed=self.seed,
            batch=self.fit.batch,
            rank=self.world.rank,
            world=self.world.size,
            start=start,
        ):
            yield self.rows.micro_batches(part.rows, self.fit.micro_batch, part.real)

    def loss(self, outputs: tuple[Tensor, Tensor], micro: MicroBatch) -> tuple[Tensor, dict[str, float]]:
        return outputs[0], {}

    def save(self, folder: Path) -> None:
        save_file(trainable(self.module), folder / "weights.safetensors")
