"""Alignment: the RosePO loss over streamed pairs, each with a personal smoothing factor asked of the hosted oracle
while training runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from rosepo_ray import storage
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.config.training import ValidationSettings
from rosepo_ray.data.dense import together
from rosepo_ray.oracle.protocol import OracleSettings
from rosepo_ray.storage import done, tables

if TYPE_CHECKING:
    from rosepo_ray.on_ray.pair_stream import PairStream
    from rosepo_ray.programs.align import AlignProgram, Rows
    from rosepo_ray.training.world import World


@dataclass(frozen=True)
class AlignResult:
    steps: int
    pairs: int
    mean_epsilon: float | None
    """None where the objective has no use for it."""
    oracle_versions: list[str]
    final: dict[str, float]
    """The figures of the last step."""


@stage(needs=("data", "sft", "reject", "calibrate"), policy="aligned")
def align(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    oracle: OracleSettings,
    align: AlignSettings,
    scoring: ScoringSettings,
    cluster: ClusterSettings,
    run: RunSettings,
) -> AlignResult:
    """Continue the SFT weights (or adapter) on the training pairs; leaves `model/`, `metrics.jsonl`, `smoothing`."""
    from rosepo_ray.on_ray import oracle_service, trainer
    from rosepo_ray.on_ray.pair_stream import PairStream
    from rosepo_ray.oracle import answers

    units = _units(inputs["reject"], align.dense)
    steps = align.steps(len(units))
    needs = align.objective.needs
    told = bool(needs & {"epsilon", "oracle_scores"})
    asked = storage.join(inputs["calibrate"], "oracle") if told and oracle.scores else None
    app = f"rosepo-oracle-{done.fingerprint(out)}" if asked is not None and oracle.served else None
    stream = PairStream(inputs["reject"], out, oracle, needs, asked, app)
    build = partial(_program, inputs["data"], inputs["sft"], inputs["reject"], stream, align, scoring, seed)
    try:
        if asked is not None and app is not None:  # it loads beside the training workers, which await it
            replicas = cluster.oracle_replicas_min, cluster.oracle_replicas_max
            oracle_service.begin(asked, app, *replicas)
        final = trainer.train("align", build, align, steps, out, cluster, run.grace_seconds)
    finally:
        if app is not None:
            oracle_service.stop(app)
    smoothing = answers.gather(out, [name for unit in units for name in unit]) if told else None
    epsilon = smoothing["epsilon"] if smoothing is not None and "epsilon" in needs else None
    return AlignResult(
        steps=int(final["step"]),
        pairs=sum(map(len, units)),
        mean_epsilon=None if epsilon is None else float(pc.mean(pc.list_flatten(epsilon)).as_py()),
        oracle_versions=[] if smoothing is None else sorted(pc.unique(smoothing["oracle_version"]).to_pylist()),
        final=final,
    )


def _units(pairs: str, dense: bool) -> list[list[str]]:
    """The training pairs that have a rejected item: each alone, or those of a window together."""
    columns = ["example_id", "user_id", "history", "split", "rejected_text"]
    rows = tables.read(pairs, "pairs", columns, split="train")
    rows = rows.filter(pc.greater(pc.list_value_length(rows["rejected_text"]), 0))
    return together(rows) if dense else [[name] for name in rows["example_id"].to_pylist()]


def _program(
    data: str,
    sft: str,
    pairs: str,
    stream: PairStream,
    align: AlignSettings,
    limits: ScoringSettings,
    seed: int,
    world: World,
) -> AlignProgram:
    made = program(data, sft, pairs, stream, align, limits, seed, world)
    stream.await_oracle()  # it came up beside the loading of the policy
    return made


def program(
    data: str,
    sft: str,
    pairs: str,
    stream: Rows,
    align: AlignSettings,
    limits: ScoringSettings,
    seed: int,
    world: World,
) -> AlignProgram:
    """Alignment of the SFT policy on one worker, its pairs from `stream`."""
    from rosepo_ray.catalogue.items import Catalogue
    from rosepo_ray.policy import store
    from rosepo_ray.programs.align import AlignProgram
    from rosepo_ray.programs.validation import watch

    catalogue = Catalogue.from_table(tables.read(data, "items"))
    with storage.local_copy(storage.join(sft, "model")) as folder:
        policy = store.load(folder, trainable=True)
    looked_at = _validation_pairs(pairs, align.validation)
    looks = watch(policy, catalogue, looked_at, align.validation, limits, world, from_start=True)
    return AlignProgram(policy, catalogue.requests, _units(pairs, align.dense), stream, align, seed, world, looks)


def _validation_pairs(pairs: str, validation: ValidationSettings) -> list[dict[str, Any]]:
    """The validation pairs for the looks of the fit; none where it takes none."""
    from rosepo_ray.programs.validation import pairs_to_look_at

    if validation.every is None:
        return []
    rows = tables.read(pairs, "pairs", split="validation")
    rows = rows.filter(pc.greater(pc.list_value_length(rows["rejected_text"]), 0)).to_pylist()
    return pairs_to_look_at(rows, validation)
