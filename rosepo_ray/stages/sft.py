"""SFT: the language model learns to write the title of the next item; and SFT continued, the control of alignment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.config.training import FitSettings
from rosepo_ray.on_ray import trainer
from rosepo_ray.policy.checks import titles
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.policy.prompts import Request


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Train the policy on the training split; leaves `model/` and `metrics.jsonl`."""
    titles.refuse_unreadable_titles(settings, inputs["data"])
    arguments = {"settings": settings, "data": inputs["data"], "start": None, "fit": settings.sft}
    trainer.run("sft", settings, settings.sft, settings.sft.steps, __name__, arguments, out)
    return {"steps": settings.sft.steps, "final": trainer.read_metrics(out)[-1]}


def run_longer(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Continue SFT from its end for as many steps as alignment takes, with alignment's batch and learning rate."""
    steps = int(storage.read_json(storage.join(inputs["align"], "_done.json"))["info"]["steps"])
    shared = {name: getattr(settings.align, name) for name in FitSettings.model_fields}
    fit = FitSettings(**shared)
    arguments = {"settings": settings, "data": inputs["data"], "start": inputs["sft"], "fit": fit}
    trainer.run("sft_longer", settings, fit, steps, __name__, arguments, out)
    return {"steps": steps, "final": trainer.read_metrics(out)[-1]}


class SftProgram:
    """Cross-entropy on response tokens; the denominator is their global number."""

    def __init__(self, settings: Settings, data: str, start: str | None, fit: FitSettings, world: Any) -> None:
        from rosepo_ray.policy import store
        from rosepo_ray.policy.engine.module import PackedPolicy

        self.settings, self.fit, self.world = settings, fit, world
        # The continued run must not see the same rows in the same order again.
        self.seed = settings.seed if start is None else settings.seed + 1
        items = tables.read(data, "items")
        self.item_ids, self.titles = items["item_id"].to_pylist(), items["title"].to_pylist()
        if start is None:
            popularity = items["popularity"].to_pylist()
            self.policy = store.build(settings.policy, settings.prompt, self.titles, popularity, settings.seed)
        else:
            with storage.local_copy(storage.join(start, "model")) as folder:
                self.policy = store.load(folder, trainable=True)
        self.module = PackedPolicy(self.policy.model)
        self._load_rows(data)

    def _load_rows(self, data: str) -> None:
        from rosepo_ray.training.windows import Sequences, Windows

        if self.settings.sft.dense:
            sequences = Sequences.from_table(tables.read(data, "sequences"), self.item_ids)
            self.windows = Windows(sequences, self.settings.data.history, self.seed)
            return
        listed = ["candidates"] if self.settings.prompt.list_candidates else []
        columns = ["example_id", "history", "target", "split", *listed]
        # In one piece: taking rows of several would put them together again at every step.
        self.examples = tables.read(data, "examples", columns, split="train").combine_chunks()
        self.title_of = dict(zip(self.item_ids, self.titles, strict=True))
        self.example_ids = self.examples["example_id"].to_pylist()

    def row_ids(self, epoch: int) -> list[str]:
        return self.windows.row_ids(epoch) if self.settings.sft.dense else self.example_ids

    def batches(self, start: int) -> Iterator[list[Any]]:
        from rosepo_ray.training.order import steps

        plan = steps(
            self.row_ids,
            seed=self.seed,
            batch=self.fit.batch,
            rank=self.world.rank,
            world=self.world.size,
            start=start,
        )
        for part in plan:
            yield self._micros(part.rows, part.real)

    def _micros(self, rows: list[tuple[int, int]], real: bool) -> list[Any]:
        from rosepo_ray.policy import batches
        from rosepo_ray.training.buckets import buckets

        if self.settings.sft.dense:
            make, names = batches.dense, [self.windows.row_id(*row) for row in rows]
            encoded = [batches.encode_window(self.policy, self._window(*row)) for row in rows]
            shapes = [row.chained for row in encoded]
        else:
            make, names = batches.targets, [self.example_ids[index] for _, index in rows]
            encoded = [batches.encode(self.policy, request) for request in self._requests(rows)]
            shapes = [row.shape for row in encoded]
        groups = buckets(shapes, self.fit.micro_batch, self.world.device.type)
        return [make(self.policy, [encoded[i] for i in group], [names[i] for i in group], real) for group in groups]

    def _window(self, epoch: int, index: int) -> list[str]:
        return [self.titles[item - 1] for item in self.windows.window(epoch, index)]

    def _requests(self, rows: list[tuple[int, int]]) -> list[Request]:
        from rosepo_ray.policy.prompts import Request

        return [
            Request(
                [self.title_of[item] for item in row["history"]],
                [self.title_of[row["target"]]],
                [self.title_of[item] for item in row.get("candidates", ())],
            )
            for row in self.examples.take([index for _, index in rows]).to_pylist()
        ]

    def loss(self, outputs: Any, micro: Any) -> tuple[Any, dict[str, float]]:
        return -outputs.sum(), {}

    def save(self, folder: Path) -> None:
        from rosepo_ray.policy import store

        store.save(self.policy, folder)


def program(arguments: dict[str, Any], world: Any) -> SftProgram:
    return SftProgram(**arguments, world=world)
