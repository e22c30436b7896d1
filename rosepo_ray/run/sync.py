"""Send MLflow what it could not be told while the run was going: figures, states, and the model's registration.

    rosepo sync --run runs/NAME

Repeated, it changes nothing. Exit codes: 0 everything is there; 2 wrong use, or a server that does not answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from rosepo_ray import storage
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.run import sources
from rosepo_ray.run.settings import Settings


def main(argv: Sequence[str], prog: str) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", metavar="DIR", required=True, help="run directory (path or URI)")
    given = parser.parse_args(argv).run
    run_dir = given.rstrip("/") if "://" in given else str(Path(given).expanduser().absolute())
    try:
        print(_sync(settings_of(run_dir), run_dir))
    except RosepoError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def settings_of(run_dir: str) -> Settings:
    """The settings that the run was started with last. Raises BadInput where the folder holds none."""
    file = storage.join(run_dir, "settings.yaml")
    if not storage.exists(file):
        raise BadInput(f"'{run_dir}' is no run directory (settings.yaml is missing); give one that align.py printed")
    return sources.build(yaml.safe_load(storage.read_bytes(file)) or {})


def _sync(settings: Settings, run_dir: str) -> str:
    from rosepo_ray.registry import server, tracking
    from rosepo_ray.run import directory, pipeline, summary
    from rosepo_ray.run.record import Recording, sentence

    with directory.lock(run_dir):  # a live run sends by itself
        uri = server.recorded_uri(settings.mlflow, (tracking.read_state(run_dir) or {}).get("tracking_uri"))
        mlflow = settings.mlflow.model_copy(update={"tracking_uri": uri})
        server.refuse_unusable(mlflow, uri)
        stages = pipeline.plan(settings, run_dir)
        folders = {step.stage.name: step.folder for step in stages}
        recording = Recording(settings.model_copy(update={"mlflow": mlflow}), run_dir, folders)
        unfinished = [step.stage.name for step in stages if step.done is None]
        if unfinished:
            recording.record.send(recording.tracker.end or "KILLED")
            return f"MLflow has been told all of {run_dir}, where {', '.join(unfinished)} can still follow"
        found = recording.register()
        kept = storage.join(run_dir, summary.NAME)
        if storage.exists(kept):
            summary.write(run_dir, {**storage.read_json(kept), "mlflow": found})
        return sentence(found)
