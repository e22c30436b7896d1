"""The stages in order: which settings and stages each depends on, what is done already, and the run's record."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rosepo_ray
from rosepo_ray import storage
from rosepo_ray.config.stage import POLICIES, Stage, in_round
from rosepo_ray.errors import BadInput, RosepoError, short
from rosepo_ray.on_ray import progress
from rosepo_ray.process import run_log, signals
from rosepo_ray.run import stage_store
from rosepo_ray.run.settings import Settings
from rosepo_ray.stages.align import align
from rosepo_ray.stages.calibrate import calibrate
from rosepo_ray.stages.data import data
from rosepo_ray.stages.evaluate import evaluate
from rosepo_ray.stages.oracle import oracle
from rosepo_ray.stages.reject import reject
from rosepo_ray.stages.sft import sft
from rosepo_ray.stages.sft_longer import sft_longer
from rosepo_ray.storage import disk_space, done

LOGGER = logging.getLogger(__name__)

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*")

STAGES = (data, sft, oracle, reject, calibrate, align, sft_longer, evaluate)


def stages_of(settings: Settings) -> list[Stage]:
    """The wanted stages in order. Each round of alignment but the last has stages of its own (`reject_1`, …): its
    policy makes the next one's rejected samples and is its reference (self-play, as SPRec: arXiv:2412.09243)."""
    begin, rounds = STAGES.index(_ROUND[0]), settings.align.rounds
    repeated = [stage for number in range(1, rounds + 1) for stage in _round(number, rounds)]
    after = [stage for stage in STAGES[begin:] if stage not in _ROUND]
    return [stage for stage in (*STAGES[:begin], *repeated, *after) if stage.is_wanted(settings)]


_ROUND = (reject, calibrate, align)


def _round(number: int, rounds: int) -> Iterator[Stage]:
    before = {"sft": in_round(align.name, number - 1)} if number > 1 else {}
    last = number == rounds
    for stage in _ROUND:
        own = {} if last else {other.name: in_round(other.name, number) for other in _ROUND if other is not stage}
        policy = stage.policy if last else None  # only the last one is judged
        name = stage.name if last else in_round(stage.name, number)
        yield stage.again(number, name, {**before, **own}, policy)


@dataclass(frozen=True)
class Planned:
    """A stage with its folder and, where it is finished, its marker."""

    stage: Stage
    folder: str
    inputs: dict[str, str]
    done: dict[str, Any] | None


def plan(settings: Settings, run_dir: str) -> list[Planned]:
    """The wanted stages in order, each with its folder in the store.

    A folder's name is the fingerprint of settings and of the stages before; a run that goes on keeps the folders that
    it has named, if their stages are finished.
    """
    store, named = stage_store.root(settings.run, run_dir), stage_store.names(run_dir)
    planned: list[Planned] = []
    for stage in stages_of(settings):
        inputs = _inputs(stage, planned)
        before = {name: storage.name(folder) for name, folder in inputs.items()}
        values = stage.values(settings)
        known = [_code(), values, before, _input_files(settings) if stage is data else [], *_outside_code(values)]
        folder = storage.join(store, stage.kind, done.fingerprint(known))
        if folder != named.get(stage.name, folder) and (marker := _marker(named[stage.name])) is not None:
            # Made by this run before its code or the times of its files changed: what is finished stays.
            LOGGER.warning(
                "%s stays as this run made it, though the package or the times of its input files changed since; for a "
                "result of today's give another --run.dir",
                stage.name,
            )
            planned.append(Planned(stage, named[stage.name], inputs, marker))
        else:
            planned.append(Planned(stage, folder, inputs, _marker(folder)))
    return planned


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of the package's code: another version may give another result."""
    folder = Path(rosepo_ray.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return done.fingerprint([(str(file.relative_to(folder)), file.read_text(encoding="utf-8")) for file in files])


def _outside_code(values: Any) -> Iterator[str]:
    """The text of the modules of the kinds, metrics and prompts that settings name by import path, `module:Name`."""
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _outside_code(value)
    elif isinstance(values, str) and (found := _IMPORT_PATH.fullmatch(values)):
        spec = find_spec(found[1])
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).read_text(encoding="utf-8")


def _inputs(stage: Stage, planned: list[Planned]) -> dict[str, str]:
    folders = {p.stage.name: p.folder for p in planned}
    sources = {need: stage.sources.get(need, need) for need in stage.needs}
    inputs = {need: folders[source] for need, source in sources.items() if source in folders}
    if POLICIES in stage.needs:
        inputs |= {p.stage.policy: p.folder for p in planned if p.stage.policy is not None}
    return inputs


def _marker(folder: str) -> dict[str, Any] | None:
    try:
        return done.read(folder)
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"{folder}/{done.NAME} is damaged ({error}); remove that folder, and its stage runs again"
        ) from error


def _input_files(settings: Settings) -> list[Any]:
    """Paths, sizes and times of the user's files: a changed log is another input."""
    from rosepo_ray.data.reading.files import Role, locate

    sources: list[tuple[str | None, Role]] = [
        (settings.data.interactions, "interactions"),
        (settings.data.items, "items"),
    ]
    found = []
    for uri, role in sources:
        for file in locate(uri, role) if uri is not None else ():
            info = storage.filesystem(file.root)[0].get_file_info(file.path)
            found.append([file.path, file.size, info.mtime_ns])
    return found


@dataclass(frozen=True)
class Finished:
    folder: str
    info: dict[str, Any]
    seconds: float
    skipped: bool


def run(settings: Settings, run_dir: str, only: str | None = None) -> dict[str, Finished]:
    """Run every stage that is not finished, in order; with `only`, that stage alone.

    Raises BadInput where the stages that `only` needs are not finished, or where the settings leave it out.
    """
    results: dict[str, Finished] = {}
    planned = everything = plan(settings, run_dir)
    if only is not None:
        found = [step for step in planned if step.stage.name == only]
        if not found:
            raise BadInput(f"these settings have no stage {only}; see --dry-run for the stages")
        missing = [s.stage.name for s in planned if s.folder in found[0].inputs.values() and s.done is None]
        if missing:
            raise BadInput(f"{only} needs {' and '.join(missing)} in {run_dir}; run jobs/stage.py {missing[0]} first")
        planned = found
    stage_store.name_folders(
        stage_store.root(settings.run, run_dir),
        run_dir,
        {step.stage.name: step.folder for step in everything},
    )
    for step in planned:
        signals.raise_if_asked()
        name = step.stage.name
        if step.done is not None:
            results[name] = Finished(step.folder, step.done["info"], step.done["seconds"], True)
            LOGGER.info("%-10s done before (%.0f s)", name, step.done["seconds"])
        else:
            with stage_store.claimed(step.folder, run_dir):
                marker = _marker(step.folder)  # another run may have made it meanwhile
                if marker is None:
                    results[name] = _run_stage(settings, step, run_dir)
                else:
                    results[name] = Finished(step.folder, marker["info"], marker["seconds"], True)
                    LOGGER.info("%-10s taken from another run (%.0f s)", name, marker["seconds"])
    return results


def _run_stage(settings: Settings, step: Planned, run_dir: str) -> Finished:
    with run_log.stage(step.stage.name):
        LOGGER.info("%-10s …", step.stage.name)
        began = time.monotonic()
        try:
            if step.stage.rewrites:
                storage.remove_folder(step.folder)
            else:
                storage.remove_leftovers(step.folder)
            with progress.sign_of_life(step.stage.name):
                info = step.stage.start(settings, step.inputs, step.folder)
            seconds = time.monotonic() - began
            done.write(step.folder, info, seconds)
        except Exception as error:
            told = _told(error, step, run_dir)
            if told is error:
                raise
            raise told from error
        LOGGER.info("%-10s %.0f s", step.stage.name, seconds)
    return Finished(step.folder, info, seconds, False)


def _told(error: Exception, step: Planned, run_dir: str) -> RosepoError:
    """What the user is told: the project's own error inside what Ray wrapped around it, a full disk, or the cause."""
    told = disk_space.told(error, run_dir)
    if told is None or type(told) is RosepoError:
        told = told or RosepoError(short(error))
        told.ray_logs = _ray_logs()
    told.stage = step.stage.name
    return told


def _ray_logs() -> str | None:
    """Where Ray keeps what its processes wrote to standard error, for a failure that says little itself."""
    ray = sys.modules.get("ray")  # a failure before any stage needed it says enough itself
    if ray is None or not ray.is_initialized():
        return None
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", ray.get_runtime_context().get_session_name(), "logs")
    return str(folder) if folder.is_dir() else f"{folder} on the cluster's nodes"
