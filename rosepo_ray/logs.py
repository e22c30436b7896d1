"""One readable log per run: lines on the terminal, and `run.log` in a local run directory."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

LOGGER = logging.getLogger("rosepo_ray")


def set_up(run_dir: str | None) -> None:
    """Lines go to standard error and, where the run directory is local, to its `run.log`."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    if run_dir is not None and "://" not in run_dir:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(run_dir, "run.log")))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.handlers = handlers
    # Ray, transformers and MLflow announce a great deal; what matters is raised.
    for name in ("ray", "ray.data", "ray.train", "ray.serve", "transformers", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
