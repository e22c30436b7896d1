"""Distributed training on Ray Train: one worker function for oracle, SFT and alignment."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError, original, short
from rosepo_ray.on_ray import progress
from rosepo_ray.process import run_log, signals
from rosepo_ray.process.cores import cores
from rosepo_ray.storage import metrics
from rosepo_ray.training.program import Build, Program

LOGGER = logging.getLogger(__name__)

_STOP = "stop"
"""A file of this name in the training folder asks the workers for a checkpoint and an early end."""
_POLL_SECONDS = 0.5


def train(
    name: str, build: Build, fit: FitSettings, steps: int, out: str, cluster: ClusterSettings, grace: float
) -> dict[str, float]:
    """Train `steps` steps under that name, or fewer where the program's watch ends it; leaves `out/model/` and
    `out/metrics.jsonl`, returns the last step's figures, its number among them. Started again, it goes on from the
    newest whole checkpoint in `out/checkpoints/`.

    `build` makes the program on each worker. Asked to stop (`signals`), the workers get `grace` seconds for a
    checkpoint; raises Stopped then.
    """
    if storage.exists(storage.join(out, metrics.NAME)):
        # Trained to the end, then killed before the marker: only the tidying is missing.
        _tidy(out)
        return _final(out)
    storage.remove_file(storage.join(out, _STOP))
    with progress.reported(name, steps, storage.join(out, "progress.json")) as reporter:
        config = {
            "build": build,
            "fit": fit,
            "steps": steps,
            "out": out,
            "log": run_log.target(),
            "threads": cluster.threads,
            "reporter": reporter,
        }
        reached, ended = _fit(cluster, config, out, grace)
    if not ended:
        raise signals.stopped(f"checkpoint at step {reached} of {steps} of {name}")
    metrics.assemble(out)
    _tidy(out)
    signals.raise_if_asked()  # asked during the last steps
    return _final(out)


def _final(out: str) -> dict[str, float]:
    return {name: value for name, value in metrics.read(out)[-1].items() if name != "time"}


def _fit(cluster: ClusterSettings, config: dict[str, Any], out: str, grace: float) -> tuple[int, bool]:
    """Run the workers; returns the step that they reached, and whether it was the last to do. Raises what ended them,
    and Stopped where they could not end within the grace time."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    system, path = storage.filesystem(out)  # given as text, Ray would read a path's signs as a URI's
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if cluster.use_gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=system,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    done: list[Any] = []
    failed: list[BaseException] = []

    def train() -> None:
        try:
            done.append(trainer.fit().return_value)
        except BaseException as error:
            failed.append(error)

    # Beside the main thread, which must stay free for signals (and whose handlers Ray would replace).
    thread = threading.Thread(target=train, daemon=True)
    with signals.deferred() as asked:
        thread.start()
        wait(thread, asked, storage.join(out, _STOP), grace)
    for error in (*failed, *(answer for answer in done if isinstance(answer, BaseException))):
        found = original(error)
        if found is not None:
            raise found from error
        raise RosepoError(f"training failed after {cluster.max_failures} restart(s): {short(error)}") from error
    step, ended = done[0]
    return int(step), bool(ended)


def wait(thread: threading.Thread, asked: Callable[[], bool], stop: str, grace: float) -> None:
    """Wait for the thread's end; once asked to stop, write the file `stop` and wait `grace` seconds more.

    Raises Stopped where the thread still runs then.
    """
    deadline = None
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if deadline is None and asked():
            LOGGER.info("asked to stop: the workers have %.0f s for a checkpoint", grace)
            storage.write_bytes(stop, b"")
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline and thread.is_alive():
            raise signals.stopped(f"no step ended within {grace:.0f} s, so the last checkpoint counts")


def _tidy(out: str) -> None:
    for name in (metrics.FOLDER, "train", "checkpoints", "best"):
        storage.remove_folder(storage.join(out, name))
    storage.remove_file(storage.join(out, _STOP))


def _worker(config: dict[str, Any]) -> tuple[int, bool] | RosepoError:
    """The training function of Ray Train. Returns the step reached and whether it was the last to do, or the error that
    no restart would mend."""
    import ray.train
    import torch

    from rosepo_ray.training.world import World

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    torch.set_num_threads(config["threads"] or cores() // context.get_local_world_size() or 1)
    with run_log.in_worker(config["log"], f"train-{world.rank}"):
        refusal: RosepoError | None = None
        try:
            program: Program = config["build"](world)
        except RosepoError as error:
            refusal = error
        if refusal is not None:
            LOGGER.info("refused to start: %s", refusal, exc_info=refusal)
        if world.sum({"refused": float(refusal is not None)})["refused"]:
            # All ranks leave together; raised, a bad setting would cost every restart.
            return refusal or RosepoError("a training worker refused to start; run.log says which and why")
        try:
            return _train(program, config, world)
        except RosepoError as error:
            if world.size == 1:
                LOGGER.info("ended by: %s", error, exc_info=error)
                return error
            raise  # the other ranks wait in an exchange: only a failure ends them


def _train(program: Program, config: dict[str, Any], world: Any) -> tuple[int, bool]:
    from rosepo_ray.training import checkpoint, loop

    program.module.to(world.device)
    fit, out = config["fit"], config["out"]
    checkpoints, best = storage.join(out, "checkpoints"), storage.join(out, "best")
    state = loop.start(program, fit)
    checkpoint.load_newest(state, checkpoints, warn=world.rank == 0)
    if state.step and world.rank == 0:
        LOGGER.info("going on after step %d of %d", state.step, config["steps"])
    writer = metrics.Writer(out)
    looked = time.monotonic()

    def on_step(step: int, figures: dict[str, float]) -> None:
        if world.rank == 0:
            writer.add({"step": step, **figures})
            if "loss" in figures:  # all but a look before the first step
                config["reporter"].update(step, figures["loss"])

    def on_checkpoint(state: loop.State) -> None:
        if world.rank == 0:
            writer.close_part()
            checkpoint.store(state, checkpoints)
            if program.watch is not None:
                checkpoint.forget_others(best, program.watch.best_at)

    def on_best(state: loop.State) -> None:
        if world.rank == 0:
            checkpoint.store_best(state, best)

    def should_stop() -> bool:
        nonlocal looked
        if world.rank != 0 or time.monotonic() - looked < _POLL_SECONDS:
            return False
        looked = time.monotonic()
        return storage.exists(storage.join(out, _STOP))

    ended = loop.fit(
        state,
        program,
        fit,
        config["steps"],
        world,
        on_step,
        on_checkpoint,
        should_stop,
        on_best,
    )
    if not ended:
        return state.step, False
    if world.rank == 0:
        writer.close_part()
        if program.watch is not None and program.watch.best_at >= 0:
            checkpoint.load_best(program.module, best, program.watch.best_at)
            LOGGER.info("the weights of step %d are kept, %s", program.watch.best_at, program.watch)
        with tempfile.TemporaryDirectory(prefix="rosepo-") as folder:
            program.save(Path(folder))
            storage.upload_folder(Path(folder), storage.join(out, "model"))
    return state.step, True
