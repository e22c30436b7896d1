"""What the loop trains: a program knows a model and its rows, and nothing of where and with whom it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from rosepo_ray.training.watch import Watch
from rosepo_ray.training.world import World


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass."""

    inputs: Any
    """What the module is called with; has `.to(device)` where it holds tensors."""
    count: int
    """What the loss sum is divided by, added over micro-batches and ranks (rows, or response tokens in SFT). 0 marks
    rows that only keep a rank in step."""
    row_ids: list[str]
    tokens: int = 0
    """Tokens processed, for the throughput."""


class Plain:
    """A program whose loss needs no look ahead and keeps nothing between steps."""

    watch: Watch | None = None

    def __init__(self) -> None:
        self.state = nn.Module()

    def look_ahead(self, micros: list[Any], run: Callable[[Any], Any]) -> None:
        pass

    def after_step(self, metrics: Mapping[str, float]) -> None:
        pass


class Program(Protocol):
    """One kind of training run, on one rank."""

    @property
    def module(self) -> nn.Module:
        """Called with `MicroBatch.inputs`; its trainable parameters are what is trained and checkpointed."""

    @property
    def state(self) -> nn.Module:
        """What else a checkpoint keeps: a module whose buffers change over the steps, equal on all ranks."""

    @property
    def watch(self) -> Watch | None:
        """What looks at validation rows while it trains."""

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        """This rank's micro-batches of every step from number `start` on, in the order that seed and rows fix."""

    def look_ahead(self, micros: list[Any], run: Callable[[Any], Any]) -> None:
        """Called before each step with its micro-batches; `run(inputs)` gives the module's outputs. For losses that
        must see the whole batch first; all ranks call it."""

    def loss(self, outputs: Any, micro: Any) -> tuple[Tensor, dict[str, float]]:
        """The SUM of the loss over what `micro.count` counts, and sums of further figures over its rows; the loop
        divides both by the count of all ranks."""

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Called after each step with the global means of its figures, on every rank."""

    def save(self, folder: Path) -> None:
        """Write the trained model into an empty local folder."""


Build = Callable[[World], Program]
"""Makes the program on each worker; travels there pickled."""
