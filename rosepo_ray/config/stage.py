"""What a stage of the pipeline is: a function that declares by its signature which settings it reads.

    @stage(needs=("data", "sft"))
    def reject(inputs: Inputs, out: str, *, seed: int, rejection: RejectionSettings, …) -> RejectResult:

The keyword-only parameters are the sections of `Settings` that it is given, or single settings (`single`), and it gets
no others. Its folder is named by a fingerprint of those, except the sections that only say where and how fast it runs,
and of the folders that it needs. What it returns, a dataclass of JSON-able values, is kept in its marker.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from typing import Any

from rosepo_ray.seeds import derive

OPERATIONAL = ("run", "cluster", "scoring", "mlflow", "promotion")
"""Sections that do not change results: a run may go on with more workers or another tracking server."""
POLICIES = "policies"
"""In `needs`: every earlier stage that leaves a policy."""

Inputs = Mapping[str, str]
"""The folder of each stage before, by name."""


def in_round(kind: str, number: int) -> str:
    """The name of a stage in an earlier round of alignment."""
    return f"{kind}_{number}"


def kind_of(name: str) -> str:
    """What all rounds of a stage are called by."""
    return re.sub(r"_[1-9]\d*$", "", name)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    name: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    run: Callable[..., Any]
    wanted: Callable[..., bool]
    """Called with the sections that it names, as `run` is: whether these settings have the stage at all."""
    rewrites: bool
    """Start with an empty folder. The other stages go on from what theirs holds: checkpoints, or finished units."""
    checks: tuple[str, ...]
    """Sections among `reads` that can only make it refuse its input, never change its result."""
    policy: str | None
    """Name, in the evaluation, of the policy that it leaves in its folder `model/`."""
    single: Mapping[str, str] = field(default_factory=dict)
    """Where the parameters stand that are one setting of a section and not a section."""
    kind: str = ""
    """The name that all rounds of a stage share: that of their folder in the store."""
    round: int = 1
    """Which time it runs; from the second on with a seed of its own."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What serves in place of a stage that it needs: the policy that a round before has aligned, for `sft`."""

    @property
    def description(self) -> str:
        """What it does, in one line: its docstring's first."""
        return (self.run.__doc__ or self.name).partition("\n")[0].rstrip(".") + "."

    def is_wanted(self, settings: Any) -> bool:
        names = inspect.signature(self.wanted).parameters
        return bool(self.wanted(**{name: getattr(settings, name) for name in names}))

    def values(self, settings: Any) -> dict[str, Any]:
        """The settings that its result depends on, JSON-able."""
        read = {n: value for n, value in self._given(settings).items() if n not in (*OPERATIONAL, *self.checks)}
        values = {n: value.model_dump() if hasattr(value, "model_dump") else value for n, value in read.items()}
        # How many rounds there are says which stages run, not what one of them gives.
        values.get("align", {}).pop("rounds", None)
        return values

    def again(self, round: int, name: str, sources: Mapping[str, str], policy: str | None) -> Stage:
        """The same stage as part of a round of alignment."""
        return replace(self, name=name, round=round, sources=sources, policy=policy)

    def start(self, settings: Any, inputs: Inputs, out: str) -> dict[str, Any]:
        """Run it into the folder `out`; what its marker keeps."""
        return asdict(self.run(inputs, out, **self._given(settings)))

    def _given(self, settings: Any) -> dict[str, Any]:
        given = {name: attrgetter(self.single.get(name, name))(settings) for name in self.reads}
        if self.round > 1 and "seed" in given:
            given["seed"] = derive(given["seed"], "round", self.round)
        return given


def stage(
    *,
    needs: tuple[str, ...] = (),
    wanted: Callable[..., bool] = lambda: True,
    rewrites: bool = False,
    checks: tuple[str, ...] = (),
    policy: str | None = None,
    single: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Stage]:
    """Makes a function a stage of its name; see the module's text and :class:`Stage`."""

    def declare(run: Callable[..., Any]) -> Stage:
        parameters = inspect.signature(run).parameters.values()
        reads = tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
        places = {setting.rpartition(".")[2]: setting for setting in single}
        return Stage(run.__name__, needs, reads, run, wanted, rewrites, checks, policy, places, run.__name__)

    return declare
