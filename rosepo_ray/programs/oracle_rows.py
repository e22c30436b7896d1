"""The oracle's micro-batches: training windows as padded index tensors, with a seed per row for its dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rosepo_ray.oracle.sasrec_net import Inputs
from rosepo_ray.seeds import mix64
from rosepo_ray.training.program import MicroBatch
from rosepo_ray.training.windows import Windows


class WindowRows(Windows):
    """The rows that the oracle trains on."""

    def collate(self, rows: Sequence[tuple[int, int]], real: bool = True) -> MicroBatch:
        """A micro-batch of (epoch, index into that epoch's cut); `count` is its number of targets, 0 if not `real`."""
        cuts = [self.cut(epoch) for epoch, _ in rows]
        user, start, length = (
            np.array([getattr(windows, name)[index] for windows, (_, index) in zip(cuts, rows, strict=True)])
            for name in ("user", "start", "length")
        )
        ages_T = np.arange(self.history - 1, -1, -1)
        inside_BT = ages_T < length[:, None]
        begin_B1 = (self.sequences.offsets[user] + start + length - 1)[:, None]
        places_BT = np.where(inside_BT, begin_B1 - ages_T, 0)
        epochs = np.array([epoch for epoch, _ in rows], dtype=np.uint64)
        # One stream per (seed, user, epoch, start): dropout does not depend on what else is in the batch.
        seeds = mix64(mix64(self.keys[user] + start.astype(np.uint64)) ^ mix64(~epochs))
        inputs = Inputs(
            torch.from_numpy(np.where(inside_BT, self.sequences.items[places_BT], 0).astype(np.int64)),
            torch.from_numpy(np.where(inside_BT, self.sequences.items[places_BT + inside_BT], 0).astype(np.int64)),
            torch.from_numpy(seeds.view(np.int64)),
        )
        ids = [self.row_id(epoch, index) for epoch, index in rows]
        targets = int(length.sum())
        return MicroBatch(inputs, targets if real else 0, ids, tokens=targets)

    def micro_batches(self, rows: Sequence[tuple[int, int]], size: int, real: bool = True) -> list[MicroBatch]:
        """`rows` of one rank and step as micro-batches of at most `size` windows."""
        return [self.collate(rows[i : i + size], real) for i in range(0, len(rows), size)]
