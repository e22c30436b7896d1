"""The control of alignment: SFT continued for as many steps as alignment took."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.cluster import ClusterSettings
from rosepo_ray.config.data import DataSettings
from rosepo_ray.config.policy import PolicySettings, PromptSettings
from rosepo_ray.config.run import RunSettings
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.sft import SftLongerSettings, SftSettings
from rosepo_ray.config.stage import Inputs, stage
from rosepo_ray.config.training import PolicyFitSettings
from rosepo_ray.seeds import derive
from rosepo_ray.stages.sft import SftResult, Source, program
from rosepo_ray.storage import done


@stage(needs=("data", "sft", "align"), wanted=lambda sft_longer: sft_longer.enabled, policy="sft_longer")
def sft_longer(
    inputs: Inputs,
    out: str,
    *,
    seed: int,
    data: DataSettings,
    policy: PolicySettings,
    prompt: PromptSettings,
    sft: SftSettings,
    sft_longer: SftLongerSettings,
    align: AlignSettings,
    scoring: ScoringSettings,
    cluster: ClusterSettings,
    run: RunSettings,
) -> SftResult:
    """Continue SFT from its end for as many steps as alignment takes, with alignment's batch and learning rate.

    Of several rounds each counts as many steps as the last one."""
    from rosepo_ray.on_ray import trainer

    steps = align.rounds * int(done.info(inputs["align"])["steps"])
    fit = PolicyFitSettings(**{name: getattr(align, name) for name in PolicyFitSettings.model_fields})
    source = Source(inputs["data"], inputs["sft"], seed, policy, prompt, sft.dense, sft.dropout, data, scoring)
    # The continued run must not see the same rows in the same order again.
    source = replace(source, seed=derive(seed, "sft_longer"))
    build = partial(program, source, fit)
    final = trainer.train("sft_longer", build, fit, steps, out, cluster, run.grace_seconds)
    return SftResult(int(final["step"]), final)
