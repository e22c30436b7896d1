"""Where settings come from: defaults < recipe < environment ROSEPO_… < command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
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

from rosepo_ray.config import Settings
from rosepo_ray.errors import BadInput

DEFAULT_RECIPE = "quickstart"


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
    given: dict[str, Any]
    """The values that were set by recipe, environment or command line, before defaults."""


def recipe_names() -> list[str]:
    folder = resources.files("rosepo_ray") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe called `name`, or the YAML file at that path. Raises BadInput."""
    if name in recipe_names():
        text = (resources.files("rosepo_ray") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise BadInput(f"no recipe '{name}': give a YAML file or one of {', '.join(recipe_names())}")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"recipe '{name}' is not valid YAML: {error}") from error
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


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "no such setting; --help lists them all"
        elif name and problem["type"] != "value_error":
            message = f"{message} (given: {problem['input']!r})"
        lines.append(f"{name}: {message}" if name else message)
    return "; ".join(lines)


def build(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of nested dictionaries, the last one strongest. Raises BadInput."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, layer)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise BadInput(_explain(error)) from error


def _refuse_unknown_environment() -> None:
    known = {f"ROSEPO_{name.upper()}" for name in Settings.model_fields} | {"ROSEPO_CACHE"}
    for name in os.environ:
        if name.startswith("ROSEPO_") and name.split("__")[0].upper() not in known:
            raise BadInput(f"the environment variable {name} names no setting; --help lists them all")


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence instead of the usage of a hundred settings."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; --help lists every setting")


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
    known, rest = argparse.ArgumentParser(add_help=False, allow_abbrev=False), list(argv)
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
    given = merge(merge(read_recipe(own.recipe), environment), cli)
    return Command(build(given), own.recipe, own.dry_run, given)
