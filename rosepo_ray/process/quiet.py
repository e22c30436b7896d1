"""Libraries that talk on a terminal which belongs to the run: what matters of theirs is raised, or in the run's log."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

LOGGER = logging.getLogger(__name__)

_NOISY = ("ray", "ray.data", "ray.train", "ray.serve", "transformers", "mlflow")
_ENVIRONMENT = {
    "TQDM_DISABLE": "1",  # "Loading weights", "Converting …", downloads: read when tqdm is imported
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def quiet_libraries() -> None:
    """Call before heavy imports, and again after them: ray sets its own levels when it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


@contextmanager
def native_code_silenced() -> Iterator[None]:
    """Nothing that this process, native code included, writes to standard error within the `with` is shown."""
    sys.stderr.flush()
    shown, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)
        os.close(null)


@contextmanager
def raylet_silenced() -> Iterator[None]:
    """What Ray prints of its raylet goes into the run log alone (`log_to_driver` does not hold it back)."""
    with redirect_stdout(cast(TextIO, _Sieve(sys.stdout))):
        yield


class _Sieve:
    """Standard output without the lines of the raylet. Ray prints a line, and then its end."""

    def __init__(self, shown: TextIO) -> None:
        self.shown, self.held = shown, False

    def write(self, text: str) -> int:
        ends_one, self.held = self.held and text == "\n", False
        if "(raylet)" in text:
            LOGGER.debug("%s", text.rstrip())
            self.held = not text.endswith("\n")
        elif not ends_one:
            self.shown.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shown, name)
