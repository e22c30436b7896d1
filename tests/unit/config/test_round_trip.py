"""Every setting that a recipe can hold can be given on the command line and by the environment, and means the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from rosepo_ray.config.kinds import OBJECTIVES as OBJECTIVES
from rosepo_ray.config.kinds import ORACLES, POLICIES, STRATEGIES, Seam, type_of
from rosepo_ray.config.section import Section
from rosepo_ray.run import help as help_text
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build, merge, nested, parse
from rosepo_ray.run.unused_settings import without_effect

NEEDED = {
    "pretrained": {"model": "some/model"},
    "mix": {"parts": {"self_hard": 2.0, "uniform": 1.0}},
    "replay": {"folder": "some/folder"},
    "http": {"url": "http://127.0.0.1:8000/score"},
}
PRETRAINED = ("--policy.type", "pretrained", "--policy.model", "m")
PLACES = {"policy": POLICIES, "oracle": ORACLES, "rejection.strategy": STRATEGIES, "align.objective": OBJECTIVES}


def every_kind() -> Iterator[tuple[str, Settings]]:
    """Settings with each kind of each seam once, all at their defaults otherwise."""
    yield "defaults", build({})
    for place, seam in PLACES.items():
        for kind in seam:
            values = nested(place, {"type": type_of(kind), **NEEDED.get(type_of(kind), {})})
            if type_of(kind) == "robust":
                values = merge(values, {"oracle": {"epsilon_max": 0.4}})
            yield f"{place} {type_of(kind)}", build(values)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def as_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    )


UNLIKE = {"sft.dense": "false"}
"""Settings whose default has no effect to be told from, or which others forbid."""


@pytest.mark.parametrize(
    ("name", "settings"), list(every_kind()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_setting_round_trips(name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """All at once, in each of the two ways; and in a recipe, which is where a run keeps them."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}\n")
    useless = {setting for setting, _ in without_effect(settings)}
    given = {setting: value for setting, value in leaves(settings.model_dump()) if setting not in useless}
    argv = [word for setting, value in given.items() for word in (f"--{setting}", as_text(value))]
    assert parse(["--recipe", str(empty), *argv], "x", "").settings == settings
    for setting, value in given.items():
        monkeypatch.setenv("ROSEPO_" + setting.upper().replace(".", "__"), as_text(value))
    assert parse(["--recipe", str(empty)], "x", "").settings == settings


def test_the_help_names_every_setting():
    named = {(entry.kind, entry.name) for entry in help_text.entries()}
    assert len(named) == len(list(help_text.entries()))
    for _, settings in every_kind():
        for setting, _ in leaves(settings.model_dump()):
            assert any(setting == name or setting.startswith(f"{name}.") for _, name in named), setting
    assert all(entry.meaning or entry.name == "seed" for entry in help_text.entries() if entry.name != "x")


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["--oracle.folds", "2"], ("oracle.folds", 2)),
        ([*PRETRAINED, "--policy.lora.targets", "all-linear"], ("policy.lora.targets", "all-linear")),
        ([*PRETRAINED, "--policy.lora.targets", "[q_proj, v_proj]"], ("policy.lora.targets", ["q_proj", "v_proj"])),
        ([*PRETRAINED, "--policy.lora", "null"], ("policy.lora", None)),
        (["--data.min_rating", "null"], ("data.min_rating", None)),
        (["--data.columns.user", "007"], ("data.columns.user", "007")),
        (["--data.columns.time", "null"], ("data.columns.time", None)),
        (["--mlflow.model=a=b"], ("mlflow.model", "a=b")),
        (["--align.lr", "1e-3"], ("align.lr", 0.001)),
        (["--run.dir", "true"], ("run.dir", "true")),
    ],
)
def test_what_a_text_means(argv: list[str], found: tuple[str, Any], monkeypatch: pytest.MonkeyPatch):
    value: Any = parse(argv, "x", "").settings
    for part in found[0].split("."):
        value = getattr(value, part)
    assert value == found[1]


def test_a_section_holds_kinds_and_nothing_else_at_a_seam():
    """A field that a seam annotates says so to pydantic, so that settings saved by a run come back as their kinds."""
    for place, seam in PLACES.items():
        section: type[Section] = Settings
        *above, last = place.split(".")
        for part in above:
            section = type(getattr(Settings(), part))
        assert any(isinstance(mark, Seam) and mark is seam for mark in section.model_fields[last].metadata)
