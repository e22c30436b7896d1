"""One local Ray cluster for all integration tests: only one fits a machine, and it takes ten to twenty seconds."""

import os
from collections.abc import Iterator

import pytest

# Read when ray is first imported, in this process and by the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with seven logical CPUs (bookkeeping: the layouts under test must fit, whatever the machine has)."""
    import ray

    ray.init("local", num_cpus=7, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    from ray import serve

    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def no_server() -> Iterator[None]:
    """Runs go to the test's own database, whatever server the user's environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
