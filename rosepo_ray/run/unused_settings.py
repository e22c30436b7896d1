"""Settings without effect: given on purpose, and yet nothing would come of them beside the others.

Most cannot be given at all, since a kind's settings are its own. What is left depends on another section. A value that
a stronger layer silences is dropped, not refused: `--oracle.type constant` on the command line may silence a
`rejection.validation_examples` of the recipe. The other way round, or both in one place, is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from rosepo_ray.config.policy import PretrainedPolicy, is_hub_name
from rosepo_ray.run.settings import Settings


@dataclass(frozen=True)
class Rule:
    """`names` have no effect where `where` holds, which is the doing of the settings `causes`."""

    names: tuple[str, ...]
    causes: tuple[str, ...]
    where: Callable[[Settings], bool]
    reason: str


def _revised_in_vain(settings: Settings) -> bool:
    policy = settings.policy
    return isinstance(policy, PretrainedPolicy) and policy.revision is not None and not is_hub_name(policy.model)


def _unwatched(fit: str) -> Rule:
    """What a look at validation rows does, where there is none."""
    names = ("examples", "metric", "texts", "patience")
    return Rule(
        tuple(f"{fit}.validation.{name}" for name in names),
        (f"{fit}.validation.every",),
        lambda s: getattr(s, fit).validation.every is None,
        f"without {fit}.validation.every; give the steps between two looks, or leave it out",
    )


RULES = (
    _unwatched("sft"),
    _unwatched("align"),
    Rule(
        ("prompt.list_candidates",),
        ("prompt.template",),
        lambda s: s.prompt.list_candidates and s.prompt.template == "titles",
        "with prompt.template titles; use prompt.template instruction",
    ),
    Rule(
        ("prompt.chat",),
        ("prompt.template",),
        lambda s: s.prompt.chat and s.prompt.template == "titles",
        "with prompt.template titles, which no chat template holds; use prompt.template instruction",
    ),
    Rule(
        ("prompt.system",),
        ("prompt.chat",),
        lambda s: s.prompt.system is not None and not s.prompt.chat,
        "without prompt.chat true; set that, or leave it out",
    ),
    Rule(
        ("cluster.oracle_replicas_min", "cluster.oracle_replicas_max"),
        ("oracle.type",),
        lambda s: not s.oracle.served,
        "with this oracle.type, which is not served; leave it out",
    ),
    Rule(
        ("oracle.epsilon_max", "oracle.epsilon"),
        ("align.objective.type",),
        lambda s: "epsilon" not in s.align.objective.needs,
        "with this align.objective.type, which smooths no label; leave it out",
    ),
    Rule(
        ("rejection.validation_examples",),
        ("oracle.type",),
        lambda s: not s.oracle.scores,
        "with this oracle.type, which has nothing to calibrate; leave it out",
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
                section, _, last = name.rpartition(".")
                if last in type(attrgetter(section)(settings)).model_fields:
                    yield name, rule
