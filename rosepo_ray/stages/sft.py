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
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.sft import SftSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.config.training import PolicyFitSettings
from rosepo_ray.storage import tables

if TYPE_CHECKING:
    from rosepo_ray.catalogue.items import Catalogue
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
    dropout: float
    protocol: DataSettings
    limits: ScoringSettings


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
    scoring: ScoringSettings,
    evaluation: EvaluationSettings,
    cluster: ClusterSettings,
    run: RunSettings,
) -> SftResult:
    """Train the policy on the training split; leaves `model/` and `metrics.jsonl`."""
    from rosepo_ray.on_ray import trainer
    from rosepo_ray.policy.checks.titles import refuse_unreadable_titles

    refuse_unreadable_titles(policy, prompt, inputs["data"], generate=evaluation.generate)
    source = Source(inputs["data"], None, seed, policy, prompt, sft.dense, sft.dropout, data, scoring)
    build = partial(program, source, sft)
    final = trainer.train("sft", build, sft, sft.steps, out, cluster, run.grace_seconds)
    return SftResult(int(final["step"]), final)


def program(source: Source, fit: PolicyFitSettings, world: World) -> SftProgram:
    """The program on one worker, with its policy: a fresh one, or the one that is continued."""
    from rosepo_ray.catalogue.items import Catalogue
    from rosepo_ray.policy import store
    from rosepo_ray.programs.sft import SftProgram
    from rosepo_ray.programs.validation import examples_to_look_at, watch

    catalogue = Catalogue.from_table(tables.read(source.data, "items"))
    if source.start is None:
        policy = store.build(
            source.policy, source.prompt, list(catalogue.titles), list(catalogue.popularity), source.seed
        )
    else:
        with storage.local_copy(storage.join(source.start, "model")) as folder:
            policy = store.load(folder, trainable=True)
    looked_at = examples_to_look_at(source.data, fit.validation, source.protocol.seed)
    looks = watch(policy, catalogue, looked_at, fit.validation, source.limits, world)
    return SftProgram(policy, _rows(source, catalogue), fit, source.seed, world, looks, source.dropout)


def _rows(source: Source, catalogue: Catalogue) -> WindowRows | ExampleRows:
    from rosepo_ray.programs.sft import ExampleRows, WindowRows
    from rosepo_ray.training.windows import Sequences, Windows

    if source.dense:
        sequences = Sequences.from_table(tables.read(source.data, "sequences"), catalogue.item_ids)
        return WindowRows(
            Windows(sequences, source.protocol.history, source.seed), catalogue.requests, catalogue.item_ids
        )
    listed = ["candidates"] if source.prompt.list_candidates else []
    columns = ["example_id", "history", "target", "split", *listed]
    examples = tables.read(source.data, "examples", columns, split="train")
    return ExampleRows(examples, catalogue.requests)
