"""The ranks that train together: sums over them, the device, the precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process's view of the group. A group of more than one needs torch.distributed to be initialised."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Each value added over the ranks, in double precision. All ranks must call with the same names."""
        if self.size == 1:
            return values
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def gather(self, value: T) -> list[T]:
        """What each rank gives, in their order; any picklable value. All ranks must call."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` behind DistributedDataParallel where there are other ranks."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    @property
    def exact(self) -> bool:
        """Whether :meth:`autocast` computes as without it."""
        return self.device.type != "cuda"

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 on a GPU, fp32 on a CPU (where bf16 without hardware support is many times slower)."""
        return nullcontext() if self.exact else torch.autocast(self.device.type, dtype=torch.bfloat16)
