"""What can be known before the first stage: better a sentence now than the same one after hours."""

from __future__ import annotations

from rosepo_ray.config.policy import PretrainedPolicy
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import cluster
from rosepo_ray.run.settings import Settings


def refuse_hopeless_run(settings: Settings) -> None:
    """Raises BadInput where machine, metrics, oracle, text encoder or pre-trained model cannot be used."""
    _check_machine(settings)
    if settings.evaluation.metrics:
        from rosepo_ray.evaluation import ranking_metrics

        ranking_metrics.with_own(settings.evaluation.metrics)
    settings.oracle.refuse_hopeless_run(settings.align.objective)
    for encoder in {settings.evaluation.encoder, getattr(settings.rejection.strategy, "encoder", "tfidf")} - {"tfidf"}:
        from rosepo_ray.catalogue.encoders import build_encoder

        build_encoder(encoder, ())
    if isinstance(settings.policy, PretrainedPolicy):
        from rosepo_ray.policy.checks import weights

        weights.refuse_unusable_model(settings.policy, settings.prompt.max_tokens)


def _check_machine(settings: Settings) -> None:
    """A run that starts its own cluster has what this machine has."""
    if cluster.address(settings.cluster) is not None:
        return
    if settings.cluster.autoscaling:
        raise BadInput(
            "cluster.autoscaling has no effect without a cluster to join; give cluster.address or RAY_ADDRESS, or "
            "leave it out"
        )
    if settings.cluster.use_gpu:
        import torch

        wanted, there = cluster.need(settings.cluster, settings.oracle.served).gpus, torch.cuda.device_count()
        if there < wanted:
            raise BadInput(
                f"cluster.use_gpu needs {wanted} GPU(s) for {settings.cluster.workers} training worker(s) and "
                f"{settings.cluster.actors} actor(s), this machine has {there}; give cluster.address, lower "
                "cluster.workers and cluster.actors, or set cluster.use_gpu false"
            )
