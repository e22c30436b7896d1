"""Libraries that talk on a terminal which belongs to the run: what matters of theirs is raised, or in the run's log."""

from __future__ import annotations

import logging
import os
import warnings

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
