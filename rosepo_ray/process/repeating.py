"""Something done again and again beside the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Calls `do` every so many seconds, on a thread beside; the first time after as many."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            do()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
