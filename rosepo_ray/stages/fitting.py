"""Distributed training on Ray Train: one worker function for oracle, SFT and alignment."""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from rosepo_ray import storage
from rosepo_ray.config import FitSettings, Settings
from rosepo_ray.errors import RosepoError, original
from rosepo_ray.stages import cluster, progress


class Program(Protocol):
    """What a stage trains. Built on every worker by `MODULE.program(arguments, world)`."""

    module: Any

    def batches(self, start: int) -> Iterator[list[Any]]:
        """This rank's micro-batches from step `start` on."""

    def loss(self, outputs: Any, micro: Any) -> tuple[Any, dict[str, float]]: ...

    def flush(self, step: int) -> None:
        """Write what was collected up to `step` (called before each checkpoint and at the end)."""

    def save(self, folder: Path) -> None:
        """Write the trained model."""


def run(settings: Settings, fit: FitSettings, steps: int, module: str, arguments: dict[str, Any], out: str) -> None:
    """Train `steps` steps; leaves `out/model/` and `out/metrics.jsonl`. Started again, it goes on from the newest
    checkpoint below `out/train/`.

    `module` names the stage module whose `program(arguments, world)` builds the :class:`Program`.
    """
    if storage.exists(storage.join(out, "metrics.jsonl")):
        # Trained to the end, then killed before the marker: only the tidying is missing.
        _tidy(out)
        return
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with progress.board(f"{Path(out).parent.name}", steps) as board:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "module": module,
                "arguments": arguments,
                "fit": fit,
                "steps": steps,
                "out": out,
                "threads": settings.cluster.threads,
                "board": board,
            },
            scaling_config=ScalingConfig(
                num_workers=settings.cluster.workers,
                use_gpu=settings.cluster.use_gpu,
                resources_per_worker={"CPU": 1, **({"GPU": 1} if settings.cluster.use_gpu else {})},
            ),
            torch_config=TorchConfig(backend="nccl" if settings.cluster.use_gpu else "gloo"),
            run_config=RunConfig(
                name="train",
                storage_path=out if "://" in out else str(Path(out).absolute()),
                failure_config=FailureConfig(max_failures=settings.cluster.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            found = original(error)
            if found is not None:
                raise found from error
            raise RosepoError(f"training failed after {settings.cluster.max_failures} restart(s): {error}") from error
    assemble_metrics(out)
    _tidy(out)


def _tidy(out: str) -> None:
    storage.remove_folder(storage.join(out, "metrics"))
    storage.remove_folder(storage.join(out, "train"))


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    import torch

    from rosepo_ray.training import checkpoint, loop
    from rosepo_ray.training.world import World

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.train.get_context()
    torch.set_num_threads(config["threads"] or cluster.cores() // context.get_local_world_size() or 1)
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    program: Program = importlib.import_module(config["module"]).program(config["arguments"], world)
    program.module.to(world.device)
    fit, out = config["fit"], config["out"]
    state = loop.start(program.module, fit)
    earlier = ray.train.get_checkpoint()
    if earlier is not None:
        with earlier.as_directory() as folder:
            checkpoint.load(state, Path(folder))
    rows: list[dict[str, float]] = []

    def on_step(step: int, metrics: dict[str, float]) -> None:
        rows.append({"step": step, **metrics})
        if world.rank == 0:
            config["board"].update(step, metrics["loss"])

    def flush(step: int) -> None:
        program.flush(step)
        if world.rank == 0 and rows:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            storage.write_bytes(storage.join(out, "metrics", f"part-{step:08d}.jsonl"), text.encode())
        rows.clear()

    def on_checkpoint(state: loop.State) -> None:
        flush(state.step)
        if world.rank != 0:
            ray.train.report({"step": state.step})
            return
        with tempfile.TemporaryDirectory(prefix="rosepo-") as folder:
            checkpoint.save(state, Path(folder))
            ray.train.report({"step": state.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    loop.fit(state, program.batches(state.step), program.loss, fit, config["steps"], world, on_step, on_checkpoint)
    flush(state.step)
    if world.rank == 0:
        with tempfile.TemporaryDirectory(prefix="rosepo-") as folder:
            program.save(Path(folder))
            storage.upload_folder(Path(folder), storage.join(out, "model"))


def assemble_metrics(out: str) -> None:
    """Join the parts into metrics.jsonl; where a killed run left a longer part, the later part's rows win."""
    rows: dict[int, str] = {}
    for name in storage.list_files(storage.join(out, "metrics")):
        for line in storage.read_bytes(storage.join(out, "metrics", name)).decode().splitlines():
            rows[json.loads(line)["step"]] = line
    storage.write_bytes(
        storage.join(out, "metrics.jsonl"), "".join(rows[step] + "\n" for step in sorted(rows)).encode()
    )


def read_metrics(out: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in storage.read_bytes(storage.join(out, "metrics.jsonl")).decode().splitlines()]
