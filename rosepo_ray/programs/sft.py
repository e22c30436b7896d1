"""SFT: the language model learns to write the title of the next item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from rosepo_ray.catalogue.requests import Requests
from rosepo_ray.config.training import FitSettings
from rosepo_ray.policy import batches, store
from rosepo_ray.policy.engine.layout import PackedBatch
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.segments import EncodedRow
from rosepo_ray.seeds import derive
from rosepo_ray.training.buckets import buckets
from rosepo_ray.training.order import steps
from rosepo_ray.training.program import MicroBatch, Plain
from rosepo_ray.training.watch import Watch
from rosepo_ray.training.windows import Windows
from rosepo_ray.training.world import World


class WindowRows:
    """Windows of users' sequences: every title but a window's first is a target (dense SFT)."""

    def __init__(self, windows: Windows, requests: Requests, item_ids: Sequence[str]) -> None:
        """`item_ids` in the order of the catalogue that the windows number from 1."""
        self.windows, self.requests, self.item_ids = windows, requests, item_ids

    def row_ids(self, epoch: int) -> list[str]:
        return self.windows.row_ids(epoch)

    def row_id(self, epoch: int, index: int) -> str:
        return self.windows.row_id(epoch, index)

    def encode(self, policy: Policy, rows: Sequence[tuple[int, int]]) -> list[EncodedRow]:
        windows = [[self.item_ids[item - 1] for item in self.windows.window(*row)] for row in rows]
        return [batches.encode_window(policy, self.requests.of(window)) for window in windows]


class ExampleRows:
    """Rows of `examples`: the loss falls on the target's title alone."""

    def __init__(self, examples: pa.Table, requests: Requests) -> None:
        # In one piece: taking rows of several would put them together again at every step.
        self.examples, self.requests = examples.combine_chunks(), requests
        self.example_ids: list[str] = self.examples["example_id"].to_pylist()

    def row_ids(self, epoch: int) -> list[str]:
        return self.example_ids

    def row_id(self, epoch: int, index: int) -> str:
        return self.example_ids[index]

    def encode(self, policy: Policy, rows: Sequence[tuple[int, int]]) -> list[EncodedRow]:
        return [
            batches.encode(policy, self.requests.of_row(row, self.requests.titles([row["target"]])))
            for row in self.examples.take([index for _, index in rows]).to_pylist()
        ]


class SftProgram(Plain):
    """Cross-entropy on response tokens; the denominator is their global number."""

    def __init__(
        self,
        policy: Policy,
        rows: WindowRows | ExampleRows,
        fit: FitSettings,
        seed: int,
        world: World,
        watch: Watch | None = None,
        dropout: float = 0.0,
    ) -> None:
        """`seed` fixes the order of the rows and what is dropped, and with them everything that is random here."""
        super().__init__()
        self.dropout = dropout
        self.watch = watch
        self.policy, self.rows, self.fit, self.seed, self.world = policy, rows, fit, seed, world
        self.module = PackedPolicy(policy.model, policy.items)

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        plan = steps(
            self.rows.row_ids,
            seed=self.seed,
            batch=self.fit.batch,
            rank=self.world.rank,
            world=self.world.size,
            start=start,
        )
        for part in plan:
            encoded, names = self.rows.encode(self.policy, part.rows), [self.rows.row_id(*row) for row in part.rows]
            groups = buckets([row.shape for row in encoded], self.fit.micro_batch, self.world.device.type)
            micros: list[MicroBatch] = []
            for group in groups:
                rows, row_ids = [encoded[i] for i in group], [names[i] for i in group]
                micro = batches.response_rows(self.policy, rows, row_ids, part.real)
                if self.dropout:
                    epochs = [part.rows[i][0] for i in group]
                    micro = replace(micro, inputs=self._dropping(micro.inputs, epochs, row_ids))
                micros.append(micro)
            yield micros

    def _dropping(self, batch: PackedBatch, epochs: Sequence[int], row_ids: Sequence[str]) -> PackedBatch:
        named = zip(epochs, row_ids, strict=True)
        return batch.dropping(self.dropout, [derive(self.seed, "policy dropout", *each) for each in named])

    def loss(self, outputs: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, float]]:
        return -outputs.sum(), {}

    def save(self, folder: Path) -> None:
        store.save(self.policy, folder)
