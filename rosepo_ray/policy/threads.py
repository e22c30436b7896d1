"""How many threads a computation may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """For what reads a few tokens at a time: more threads sum products that small in another order, and the number of
    cores, or of the actors that share them, must not show in a score's last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
