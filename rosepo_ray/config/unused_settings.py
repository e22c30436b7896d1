"""Settings without effect: given on purpose, and yet nothing would come of them beside the others.

A value that a stronger layer silences is dropped, not refused: `--oracle.type constant` on the command line may
silence an `align.epsilon_max` of the recipe. The other way round, or both in one place, is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rosepo_ray.config.settings import Settings


@dataclass(frozen=True)
class Rule:
    """`names` have no effect where `where` holds, which is the doing of the settings `causes`."""

    names: tuple[str, ...]
    causes: tuple[str, ...]
    where: Callable[[Settings], bool]
    reason: str


def is_hub_name(model: str) -> bool:
    """True where `policy.model` can only be a name on the hub: neither a sample nor a path."""
    return not model.startswith(("sample:", "/", ".", "~")) and model.count("/") < 2 and not Path(model).exists()


def _revised_in_vain(settings: Settings) -> bool:
    policy = settings.policy
    return policy.type == "pretrained" and policy.revision is not None and not is_hub_name(policy.model)


RULES = (
    Rule(
        ("prompt.list_candidates",),
        ("prompt.template",),
        lambda s: s.prompt.list_candidates and s.prompt.template == "titles",
        "with prompt.template titles; use prompt.template instruction",
    ),
    Rule(
        ("rejection.strategy.temperature",),
        ("rejection.strategy.pick",),
        lambda s: s.rejection.strategy.type == "self_hard" and s.rejection.strategy.pick == "argmax",
        "with rejection.strategy.pick argmax; set it to sample, or leave the temperature out",
    ),
    Rule(
        ("align.epsilon_max",),
        ("oracle.type",),
        lambda s: s.oracle.type == "constant",
        "with oracle.type constant; set oracle.epsilon instead",
    ),
    Rule(
        ("align.epsilon_max",),
        ("align.replay",),
        lambda s: s.align.replay is not None,
        "with align.replay, whose table holds every epsilon; leave it out",
    ),
    Rule(
        ("oracle.epsilon",),
        ("align.replay",),
        lambda s: s.align.replay is not None and s.oracle.type == "constant",
        "with align.replay, whose table holds every epsilon; leave it out",
    ),
    Rule(
        ("cluster.oracle_replicas_min", "cluster.oracle_replicas_max"),
        ("oracle.type",),
        lambda s: s.oracle.type == "constant",
        "with oracle.type constant, which is not served; leave it out",
    ),
    Rule(
        ("cluster.oracle_replicas_min", "cluster.oracle_replicas_max"),
        ("align.replay",),
        lambda s: s.align.replay is not None,
        "with align.replay, which asks no oracle; leave it out",
    ),
    Rule(
        ("rejection.validation_examples",),
        ("oracle.type",),
        lambda s: s.oracle.type == "constant",
        "with oracle.type constant, which has nothing to calibrate; leave it out",
    ),
    Rule(
        ("evaluation.catalogue_examples", "evaluation.beams", "scoring.cache_mib"),
        ("prompt.list_candidates",),
        lambda s: s.prompt.list_candidates,
        "with prompt.list_candidates: a prompt that names candidates cannot rank the whole catalogue; leave it out",
    ),
    Rule(
        ("evaluation.beams",),
        ("evaluation.catalogue_examples",),
        lambda s: s.evaluation.catalogue_examples == 0,
        "with evaluation.catalogue_examples 0; raise that, or leave it out",
    ),
    Rule(
        ("policy.revision",),
        ("policy.model",),
        _revised_in_vain,
        "with a policy.model that is a folder or a sample; leave it out, or give a hub name",
    ),
)


def without_effect(settings: Settings) -> Iterator[tuple[str, Rule]]:
    """Every setting that has no effect beside the others, whether anyone gave it or not."""
    for rule in RULES:
        if rule.where(settings):
            for name in rule.names:
                yield name, rule
