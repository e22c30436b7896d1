"""What can be known before the first stage: better a sentence now than the same one after hours."""

from __future__ import annotations

import pyarrow.compute as pc

from rosepo_ray.config.align import ROBUST_EPSILON
from rosepo_ray.config.policy import PretrainedPolicy
from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import cluster
from rosepo_ray.storage import tables


def refuse_hopeless_run(settings: Settings) -> None:
    """Raises BadInput where machine, table to replay, text encoder or pre-trained model cannot be used."""
    _check_machine(settings)
    if settings.align.replay is not None:
        _check_replay(settings.align.replay, settings.align.objective.type)
    if settings.rejection.encoder != "tfidf":
        from rosepo_ray.catalogue.encoders import build_encoder

        build_encoder(settings.rejection.encoder, ())
    if isinstance(settings.policy, PretrainedPolicy):
        from rosepo_ray.policy.checks import weights

        weights.refuse_unusable_model(settings.policy, settings.prompt.max_tokens)


def _check_replay(folder: str, objective: str) -> None:
    if not tables.parts(folder, "smoothing"):
        raise BadInput(
            f"align.replay '{folder}' holds no smoothing table; give the folder of an alignment stage "
            "(RUN/align/FINGERPRINT)"
        )
    largest = pc.max(pc.list_flatten(tables.read(folder, "smoothing", ["epsilon"])["epsilon"])).as_py()
    if objective == "robust" and largest is not None and largest > ROBUST_EPSILON:
        raise BadInput(
            f"align.replay '{folder}' holds a smoothing factor of {largest:.3g}, and align.objective robust divides by "
            f"1-2e near 0; replay a table made with align.epsilon_max {ROBUST_EPSILON} or less, or set align.objective "
            "conservative"
        )


def _check_machine(settings: Settings) -> None:
    """A run that starts its own cluster has what this machine has."""
    if cluster.address(settings) is not None:
        return
    if settings.cluster.autoscaling:
        raise BadInput(
            "cluster.autoscaling has no effect without a cluster to join; give cluster.address or RAY_ADDRESS, or "
            "leave it out"
        )
    if settings.cluster.use_gpu:
        import torch

        wanted, there = cluster.need(settings).gpus, torch.cuda.device_count()
        if there < wanted:
            raise BadInput(
                f"cluster.use_gpu needs {wanted} GPU(s) for {settings.cluster.workers} training worker(s) and "
                f"{settings.cluster.actors} actor(s), this machine has {there}; give cluster.address, lower "
                "cluster.workers and cluster.actors, or set cluster.use_gpu false"
            )
