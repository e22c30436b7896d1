"""How many threads a computation may use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CHANGING = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """For what reads a few tokens at a time: more threads sum products that small in another order, and the number of
    cores, or of the actors that share them, must not show in a score's last digit.

    The number is a thread's own, so several may be in here at once; but a new thread begins with what any thread set
    last, which a third one therefore sets back at once.
    """
    with _CHANGING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(before,))
        other.start()
        other.join()
    try:
        yield
    finally:
        torch.set_num_threads(before)
