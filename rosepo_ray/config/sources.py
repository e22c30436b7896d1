"""Where settings come from: defaults < recipe < environment ROSEPO_… < command line."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from rosepo_ray.config.settings import Settings
from rosepo_ray.config.unused_settings import without_effect
from rosepo_ray.errors import BadInput

DEFAULT_RECIPE = "quickstart"
_DEFAULT_TYPES: dict[str, Any] = {
    "policy": {"type": "scratch"},
    "oracle": {"type": "sasrec"},
    "rejection": {"strategy": {"type": "self_hard"}},
    "align": {"objective": {"type": "conservative"}},
}
"""Below every layer, so that `policy: {hidden: 64}` means the default policy."""
_TYPED = ("policy", "oracle", "strategy", "objective")


class _Sources(BaseSettings, Settings):
    """The settings as pydantic-settings reads them; only its sources are used, the merge is below."""

    model_config = SettingsConfigDict(
        env_prefix="ROSEPO_", env_nested_delimiter="__", frozen=True, extra="forbid", use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Command:
    """One parsed command line."""

    settings: Settings
    recipe: str
    dry_run: bool


def recipe_names() -> list[str]:
    folder = resources.files("rosepo_ray") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


class _Loader(yaml.SafeLoader):
    """YAML in which a name stands once: of two the first would have no effect."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"'{name}' stands twice in one section")
        return super().construct_mapping(node, deep)


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe called `name`, or the YAML file at that path. Raises BadInput."""
    try:
        if name in recipe_names():
            text = (resources.files("rosepo_ray") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        elif Path(name).is_file():
            text = Path(name).read_text(encoding="utf-8")
        else:
            raise BadInput(f"no recipe '{name}': give a YAML file or one of {', '.join(recipe_names())}")
        values = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"recipe '{name}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadInput(f"recipe '{name}' must hold settings by name, not a {type(values).__name__}")
    return values


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` over `low`, section by section. A section whose `type` changes starts afresh: the settings of another
    policy, oracle or strategy mean nothing to the new one."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            changed = "type" in value and value["type"] != below.get("type", value["type"])
            merged[key] = dict(value) if changed else merge(below, value)
        else:
            merged[key] = value
    return merged


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the innermost settings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _similar(name: str) -> str:
    known = [known for known, _ in _names(Settings().model_dump())]
    known += list({known.rpartition(".")[0] for known in known} - {""})
    found = [match for match in difflib.get_close_matches(name, known, n=1, cutoff=0.8) if match != name]
    return f"did you mean {found[0]}? " if found else ""


def _explain(error: ValidationError) -> str:
    return "; ".join(_sentence(problem) for problem in error.errors())


def _sentence(problem: Any) -> str:
    # Pydantic puts the chosen `type` behind the section that has one; nobody writes it there.
    places = [str(part) for part in problem["loc"]]
    kinds = {place: kind for place, kind in pairwise(places) if place in _TYPED}
    name = ".".join(p for n, p in enumerate(places) if n == 0 or places[n - 1] not in _TYPED)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        where = "".join(f" with {section}.type {kind}" for section, kind in kinds.items())
        message = f"no such setting{where}; {_similar(name)}--help lists them all"
    elif problem["type"] == "union_tag_invalid":
        message = f"the type {problem['ctx']['tag']!r} is none of {problem['ctx']['expected_tags']}"
    elif problem["type"] in ("model_type", "model_attributes_type"):
        message = f"this is a section, so name a setting below it (given: {problem['input']!r})"
    elif problem["type"] == "missing":
        where = "".join(f" {section}.type {kind}" for section, kind in kinds.items())
        message = f"it is not given, and{where or ' it'} needs it"
    elif problem["type"] != "value_error":
        message = f"{message} (given: {problem['input']!r})"
    elif message.startswith(name):
        return message
    return f"{name}: {message}" if name else message


def build(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of nested dictionaries, the last one strongest.

    Raises BadInput where they cannot be used, or where one was given that has no effect beside the others. A default
    value of the first layer does not count as given: that layer is a recipe, and the settings.yaml of a run, which
    holds every setting, is a recipe too.
    """
    values: dict[str, Any] = _DEFAULT_TYPES
    given_in: dict[str, int] = {}
    for number, layer in enumerate(layers):
        values = merge(values, layer)
        given_in |= {name: number for name, _ in _names(layer)}
    settings = _validated(values)
    silenced = {name: rule for name, rule in without_effect(settings) if name in given_in}
    for name, rule in silenced.items():
        cause = max(given_in.get(cause, -1) for cause in rule.causes)
        default = given_in[name] == 0 and _value(settings, name) == _default(settings, name)
        if given_in[name] >= cause and not default:
            raise BadInput(f"{name} has no effect {rule.reason}")
        values = _without(values, name.split("."))
    return _validated(values) if silenced else settings


def _validated(values: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise BadInput(_explain(error)) from error


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _default(settings: Settings, name: str) -> Any:
    section, _, last = name.rpartition(".")
    return type(_value(settings, section)).model_fields[last].default


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """`values` without the setting at `path`, which then takes its default."""
    first, *rest = path
    if first not in values:
        return dict(values)
    inner = {first: _without(values[first], rest)} if rest else {}
    return {name: value for name, value in values.items() if name != first} | inner


def _refuse_unknown_environment() -> None:
    known = {f"ROSEPO_{name.upper()}" for name in Settings.model_fields} | {"ROSEPO_CACHE"}
    for name in os.environ:
        if name.startswith("ROSEPO_") and name.split("__")[0].upper() not in known:
            raise BadInput(f"the environment variable {name} names no setting; --help lists them all")


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence instead of the usage of a hundred settings."""

    def error(self, message: str) -> NoReturn:
        unknown = [word.removeprefix("--").partition("=")[0] for word in message.split() if word.startswith("--")]
        similar = "".join(_similar(name) for name in unknown) if message.startswith("unrecognized") else ""
        raise BadInput(f"{message}; {similar}--help lists every setting")


def parse(argv: Sequence[str], prog: str, description: str) -> Command:
    """The settings of one command line. Raises BadInput; `--help` prints and exits 0."""
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"recipes: {', '.join(recipe_names())}. Every setting can also come from the environment, "
        "for example ROSEPO_ALIGN__BETA=0.2.",
    )
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="recipe name or YAML file (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and the plan, do nothing")
    known, rest = _Parser(add_help=False, allow_abbrev=False), list(argv)
    known.add_argument("--recipe", default=DEFAULT_RECIPE)
    known.add_argument("--dry-run", action="store_true")
    own, rest = known.parse_known_args(rest)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            _Sources,
            root_parser=parser,
            cli_parse_args=rest,
            cli_hide_none_type=True,
            cli_parse_none_str="null",
            cli_avoid_json=True,
        )
        cli = source()
        environment = EnvSettingsSource(
            _Sources, env_prefix="ROSEPO_", env_nested_delimiter="__", case_sensitive=False
        )()
    except (argparse.ArgumentError, SettingsError) as error:
        raise BadInput(f"the settings cannot be read ({error}); --help lists every setting") from error
    _refuse_unknown_environment()
    return Command(build(read_recipe(own.recipe), environment, cli), own.recipe, own.dry_run)
