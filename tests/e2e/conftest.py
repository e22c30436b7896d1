"""One tiny run to its end, that all tests of jobs and faults share."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.e2e.processes import job
from tests.synthetic import tiny


class Quiet(NamedTuple):
    """A run that nothing disturbed."""

    recipe: Path
    run_dir: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many short steps, so that a fault can hit between two checkpoints."""
    folder = tmp_path_factory.mktemp("log")
    settings = tiny(
        folder,
        sft={"steps": 150, "batch": 16, "checkpoint_every": 20},
        rejection={"examples": 300, "validation_examples": 60, "k": 2},
        align={"batch": 8, "epochs": 3, "checkpoint_every": 16},
    )
    path = folder / "tiny.yaml"
    path.write_text("# python jobs/align.py --recipe tiny.yaml\n" + yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def quiet(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    return Quiet(recipe, run_dir, job("align", "--recipe", str(recipe), "--run.dir", str(run_dir)))
