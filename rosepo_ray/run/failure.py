"""How a failed run ends: what failed, where the full log is, and what the same command would do now."""

from __future__ import annotations

import logging
import re

from rosepo_ray import storage
from rosepo_ray.errors import INTERRUPTED, BadInput, Refused, RosepoError, Stopped, clip, short
from rosepo_ray.process import run_log
from rosepo_ray.run import pipeline
from rosepo_ray.run.settings import Settings
from rosepo_ray.storage import disk_space, done

LOGGER = logging.getLogger(__name__)

_WIDTH = 1000
_CHECKPOINT = re.compile(r"(?P<folder>(?:(?P<part>.+)/)?checkpoints/step-(?P<step>\d+))/_done\.json")


def report(error: BaseException, settings: Settings, run_dir: str, only: str | None) -> int:
    """Log the end of a failed run, its traceback in run.log alone; returns the exit code."""
    told = _told(error, run_dir)
    where = f"{told.stage}: " if told.stage else ""
    with run_log.stage(told.stage):
        LOGGER.error("%s%s", where, clip(str(told), _WIDTH), exc_info=error)
    LOGGER.info("%s", _log_sentence(told, run_dir))
    LOGGER.info("%s", _next(told, settings, run_dir, only))
    return told.exit_code


def _told(error: BaseException, run_dir: str) -> RosepoError:
    if isinstance(error, KeyboardInterrupt):
        return _Interrupted("interrupted")
    if isinstance(error, SystemExit):  # Ray's own answer to SIGTERM, in place before and after the stages
        return Stopped("stopped by SIGTERM")
    found = disk_space.told(error, run_dir)
    return found if found is not None else RosepoError(short(error))


class _Interrupted(Stopped):
    exit_code = INTERRUPTED


def _log_sentence(told: RosepoError, run_dir: str) -> str:
    text = f"The full log: {storage.join(run_dir, run_log.NAME)}"
    if lost := run_log.lost():
        text += f" (incomplete: {lost})"
    return text + (f"; what Ray's processes wrote: {told.ray_logs}" if told.ray_logs else "")


def _next(told: RosepoError, settings: Settings, run_dir: str, only: str | None) -> str:
    """Whether the same command continues, and from where."""
    command = f"The same command with --run.dir {run_dir}"
    try:
        planned = pipeline.plan(settings, run_dir)
        state = _state(planned, only)
    except Exception as error:  # the input files or the storage may be what failed
        state = f"what is finished there is kept (it cannot be listed now: {short(error, 120)})"
    if isinstance(told, BadInput):
        return (
            f"{command} would end the same way: change first what the message names (settings other than cluster, "
            f"mlflow, promotion and run need another run directory); {state}"
        )
    if isinstance(told, Refused):
        return f"{command} would be refused again until what the message names has changed; {state}"
    return f"{command} continues: {state}"


def _state(planned: list[pipeline.Planned], only: str | None) -> str:
    finished = [step.stage.name for step in planned if step.done is not None]
    waiting = [step for step in planned if step.done is None and only in (None, step.stage.name)]
    kept = f"{', '.join(finished)} {'is' if len(finished) == 1 else 'are'} kept" if finished else "no stage is finished"
    if not waiting:
        return f"{kept}, and only what follows the stages is left"
    return f"{kept}, {waiting[0].stage.name} {_start(waiting[0])}"


def _start(step: pipeline.Planned) -> str:
    """Where a stage that is not finished begins, judged by what is in its folder."""
    if step.stage.rewrites:
        return "starts from its beginning"
    files = storage.list_files(step.folder)
    found = [match for match in map(_CHECKPOINT.fullmatch, files) if match is not None]
    for match in sorted(found, key=lambda match: (match["part"] or "", int(match["step"])), reverse=True):
        if done.damage(storage.join(step.folder, match["folder"])) is None:
            return f"goes on after step {int(match['step'])}" + (f" of {match['part']}" if match["part"] else "")
    if any({"train", "checkpoints"} & set(file.split("/")[:-1]) for file in files):
        return "trains from its first step"
    return "goes on with what it has stored" if files else "starts from its beginning"
