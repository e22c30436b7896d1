"""The command behind jobs/*.py: settings, checks, the stages, the record and the closing table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import yaml

from rosepo_ray.config import Settings
from rosepo_ray.config_sources import Command, parse
from rosepo_ray.errors import RosepoError


def main(argv: Sequence[str], name: str, description: str, only: str | None = None) -> int:
    """Run the pipeline, or `only` one of its stages; returns the exit code (2: the input cannot work)."""
    try:
        command = parse(argv, f"jobs/{name}.py", description)
        from rosepo_ray import run_directory

        run_dir = run_directory.resolve(command.settings, command.recipe)
        run_directory.refuse_other_settings(command.settings, run_dir)
        if command.dry_run:
            _print_plan(command, run_dir)
            return 0
        return _run(command.settings, run_dir, only)
    except RosepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _print_plan(command: Command, run_dir: str) -> None:
    from rosepo_ray import pipeline
    from rosepo_ray.stages import cluster

    print(yaml.safe_dump(command.settings.model_dump(), sort_keys=False, allow_unicode=True))
    print(f"run directory: {run_dir}")
    for step in pipeline.plan(command.settings, run_dir):
        print(f"  {step.stage.name:10} {'done' if step.done else 'to do'}")
    wanted = cluster.need(command.settings)
    print(f"resources: {wanted.cpus:g} CPUs, {wanted.gpus} GPUs ({wanted.sum})")


def _run(settings: Settings, run_dir: str, only: str | None) -> int:
    from rosepo_ray import logs, pipeline, preflight, run_directory, summary
    from rosepo_ray.memory import PeakMemory
    from rosepo_ray.registry import tracking
    from rosepo_ray.stages import cluster

    with run_directory.lock(run_dir):
        # An unreachable server must be known before hours of work, not after.
        tracking.check_reachable(tracking.tracking_uri(settings.mlflow, run_dir))
        preflight.check(settings)
        logs.set_up(run_dir)
        run_directory.record(settings, run_dir)
        logs.LOGGER.info("run directory %s", run_dir)
        with PeakMemory() as memory:
            cluster.start(settings)
            try:
                finished = pipeline.run(settings, run_dir, only)
            finally:
                cluster.stop()
            if only is not None:
                print(yaml.safe_dump({only: finished[only].info}, sort_keys=False, allow_unicode=True))
                print(run_dir)
                return 0
        stages = {
            name: {"seconds": round(result.seconds, 1), "state": "skipped" if result.skipped else "run"}
            for name, result in finished.items()
        }
        info = {name: result.info for name, result in finished.items()}
        content = summary.build(info, stages, memory.peak, run_dir)
        summary.write(run_dir, content)  # before MLflow: a server that fails now costs no result
        mlflow = _register(settings, run_dir, finished)
        summary.write(run_dir, {**content, "mlflow": mlflow})
    print(summary.table(content))
    model = f"{mlflow['model']} version {mlflow['version']}, alias challenger"
    print(f"MLflow run {mlflow['run_id']} at {mlflow['tracking_uri']}; {model}")
    print(run_dir)
    return 0


def _register(settings: Settings, run_dir: str, finished: dict[str, Any]) -> dict[str, Any]:
    from rosepo_ray.stages import register

    return register.run(settings, {name: result.folder for name, result in finished.items()}, run_dir)
