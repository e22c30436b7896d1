"""SFT: the language model is fine-tuned on the training split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rosepo_ray import storage
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.evaluation import EvaluationSettings
from rosepo_ray.config.policy import PolicySettings, PromptSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.sft import SftSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.config.training import FitSettings
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.programs.sft import ExampleRows, SftProgram, WindowRows
    from rosepo_ray.training.world import World


@dataclass(frozen=True)
class SftResult:
    steps: int
    final: dict[str, float]
    """The figures of the last step."""


@dataclass(frozen=True)
class Source:
    """What every worker needs to build the program. `start` is the folder of the SFT that is continued, else None."""

    data: str
    start: str | None
    seed: int
    policy: PolicySettings
    prompt: PromptSettings
    dense: bool
    history: int


@stage(needs=("data",), checks=("evaluation",), policy="sft")
def sft(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    data: DataSettings,
    policy: PolicySettings,
    prompt: PromptSettings,
    sft: SftSettings,
    evaluation: EvaluationSettings,
    cluster: ClusterSettings,
    run: RunSettings,
) -> SftResult:
    """Train the policy on the training split; leaves `model/` and `metrics.jsonl`."""
    from rosepo_ray.on_ray import trainer
    from rosepo_ray.policy.checks.titles import refuse_unreadable_titles

    refuse_unreadable_titles(policy, prompt, inputs["data"], generate=evaluation.generate)
    source = Source(inputs["data"], None, seed, policy, prompt, sft.dense, data.history)
    build = partial(program, source, sft)
    return SftResult(sft.steps, trainer.train("sft", build, sft, sft.steps, out, cluster, run.grace_seconds))


def program(source: Source, fit: FitSettings, world: World) -> SftProgram:
    """The program on one worker, with its policy: a fresh one, or the one that is continued."""
    from rosepo_ray.policy import store
    from rosepo_ray.programs.sft import SftProgram

    items = tables.read(source.data, "items")
    titles, popularity = items["title"].to_pylist(), items["popularity"].to_pylist()
    if source.start is None:
        policy = store.build(source.policy, source.prompt, titles, popularity, source.seed)
    else:
        with storage.local_copy(storage.join(source.start, "model")) as folder:
            policy = store.load(folder, trainable=True)
    return SftProgram(policy, _rows(source, items["item_id"].to_pylist(), titles), fit, source.seed, world)


def _rows(source: Source, item_ids: list[str], titles: list[str]) -> WindowRows | ExampleRows:
    from rosepo_ray.catalogue.requests import Requests
    from rosepo_ray.programs.sft import ExampleRows, WindowRows
    from rosepo_ray.training.windows import Sequences, Windows

    requests = Requests(dict(zip(item_ids, titles, strict=True)))
    if source.dense:
        sequences = Sequences.from_table(tables.read(source.data, "sequences"), item_ids)
        return WindowRows(Windows(sequences, source.history, source.seed), requests, item_ids)
    listed = ["candidates"] if source.prompt.list_candidates else []
    columns = ["example_id", "history", "target", "split", *listed]
    examples = tables.read(source.data, "examples", columns, split="train")
    return ExampleRows(examples, requests)
