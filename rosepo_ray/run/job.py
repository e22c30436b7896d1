"""The command behind jobs/*.py: settings, checks, the stages, the record and the closing table."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

from rosepo_ray.errors import INTERRUPTED, BadInput, NoSpace, RosepoError, short
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import Command, parse

LOGGER = logging.getLogger(__name__)
if TYPE_CHECKING:
    from rosepo_ray.run.record import Recording


def main(argv: Sequence[str], prog: str, description: str, only: str | None = None) -> int:
    """Run the pipeline, or `only` one of its stages, as the command `prog`; returns the exit code (2: bad input).

    What fails before the run directory exists is one sentence; later failures also name the log and what continues.
    """
    from rosepo_ray.process.quiet import quiet_libraries
    from rosepo_ray.storage import disk_space

    quiet_libraries()
    try:
        command = parse(argv, prog, description)
        from rosepo_ray.run import directory

        run_dir = directory.resolve(command.settings, command.recipe)
        directory.refuse_other_settings(command.settings, run_dir)
        if command.dry_run:
            _print_plan(command, run_dir)
            return 0
        return _run(command.settings, run_dir, only)
    except RosepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if disk_space.is_full(error):
            print(f"error: {disk_space.no_space([os.getcwd(), tempfile.gettempdir()])}", file=sys.stderr)
            return NoSpace.exit_code
        advice = "make the file or address that it names usable, or give another"
        print(f"error: the run cannot begin ({short(error)}); {advice}", file=sys.stderr)
        return BadInput.exit_code
    except KeyboardInterrupt:
        print("error: interrupted before the run began", file=sys.stderr)
        return INTERRUPTED


def _print_plan(command: Command, run_dir: str) -> None:
    from rosepo_ray.on_ray import cluster
    from rosepo_ray.run import pipeline

    print(yaml.safe_dump(command.settings.model_dump(), sort_keys=False, allow_unicode=True))
    print(f"run directory: {run_dir}")
    for step in pipeline.plan(command.settings, run_dir):
        print(f"  {step.stage.name:10} {'done' if step.done else 'to do':6} {step.folder}")
    wanted = cluster.need(command.settings.cluster, command.settings.oracle.served)
    if cluster.address(command.settings.cluster) is not None:
        cluster.start(command.settings.cluster, command.settings.oracle.served)  # refuses a layout that does not fit
        cluster.stop()
    print(f"resources: {wanted.cpus:g} CPUs, {wanted.gpus} GPUs ({wanted.sum})")


def _run(settings: Settings, run_dir: str, only: str | None) -> int:
    from rosepo_ray.on_ray import cluster
    from rosepo_ray.process import run_log
    from rosepo_ray.run import directory, preflight, record
    from rosepo_ray.storage import disk_space

    # What can be known now must not be known after hours of work; until here nothing is written.
    disk_space.refuse_full_disk(run_dir, disk_space.MINIMUM_BYTES)
    preflight.refuse_hopeless_run(settings)
    shared = cluster.address(settings.cluster) is not None
    if shared:
        cluster.start(
            settings.cluster, settings.oracle.served
        )  # refuses a layout that does not fit; a cluster of one's own always does
    record.refuse_unusable(settings, run_dir)  # last: it may make the experiment
    with directory.lock(run_dir):
        directory.refuse_other_settings(settings, run_dir)  # again: another run may have begun during the checks
        with run_log.opened(run_dir, settings.run.log):
            return _recorded(settings, run_dir, only, shared)


def _recorded(settings: Settings, run_dir: str, only: str | None, connected: bool) -> int:
    """The work, while MLflow is told how it goes; returns the exit code."""
    from rosepo_ray.run import directory, failure, pipeline
    from rosepo_ray.run.record import Recording

    recording = None
    try:
        directory.record(settings, run_dir)
        folders = {step.stage.name: step.folder for step in pipeline.plan(settings, run_dir)}
        recording = Recording(settings, run_dir, folders)
        recording.start()
        _work(settings, run_dir, only, connected, recording)
    except BaseException as error:
        if recording is not None:
            recording.end(error)
        return failure.report(error, settings, run_dir, only)
    return 0


def _work(settings: Settings, run_dir: str, only: str | None, connected: bool, recording: Recording) -> None:
    from rosepo_ray.on_ray import cluster
    from rosepo_ray.process import signals
    from rosepo_ray.process.memory import PeakMemory
    from rosepo_ray.process.quiet import raylet_silenced
    from rosepo_ray.run import pipeline, record, summary

    LOGGER.info("run directory %s", run_dir)
    with PeakMemory() as memory:
        if not connected:
            cluster.start(settings.cluster, settings.oracle.served)
        try:
            # Only now: connecting, Ray has put a handler of its own in place.
            with raylet_silenced(), signals.handled():
                finished = pipeline.run(settings, run_dir, only)
        finally:
            cluster.stop()
    if only is not None:
        print(yaml.safe_dump({only: finished[only].info}, sort_keys=False, allow_unicode=True))
        print(run_dir)
        recording.end()
        return
    stages = {
        name: {"seconds": round(result.seconds, 1), "state": "skipped" if result.skipped else "run"}
        for name, result in finished.items()
    }
    info = {name: result.info for name, result in finished.items()}
    content = summary.build(info, stages, memory.peak, run_dir)
    summary.write(run_dir, content)  # before MLflow: a server that fails now costs no result
    mlflow = recording.finish()
    summary.write(run_dir, {**content, "mlflow": mlflow})
    print(summary.table(content))
    print(record.sentence(mlflow))
    print(run_dir)
