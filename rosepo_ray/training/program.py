"""What the loop trains: a program knows a model and its rows, and nothing of where and with whom it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from rosepo_ray.training.loop import MicroBatch
from rosepo_ray.training.world import World


class Program(Protocol):
    """One kind of training run, on one rank."""

    @property
    def module(self) -> nn.Module:
        """Called with `MicroBatch.inputs`; its trainable parameters are what is trained and checkpointed."""

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        """This rank's micro-batches of every step from number `start` on, in the order that seed and rows fix."""

    def loss(self, outputs: Any, micro: Any) -> tuple[Tensor, dict[str, float]]:
        """The SUM of the loss over what `micro.count` counts, and sums of further figures over its rows; the loop
        divides both by the count of all ranks."""

    def save(self, folder: Path) -> None:
        """Write the trained model into an empty local folder."""


Build = Callable[[World], Program]
"""Makes the program on each worker; travels there pickled."""
