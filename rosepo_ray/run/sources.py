"""Where settings come from: defaults < recipe < environment ROSEPO_… < command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rosepo_ray.config.problems import explain
from rosepo_ray.config.section import Text
from rosepo_ray.errors import BadInput
from rosepo_ray.run import help as help_text
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.unused_settings import without_effect

DEFAULT_RECIPE = "quickstart"
_PREFIX = "ROSEPO_"
_NO_SETTINGS = ("ROSEPO_CACHE",)


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


def default_types() -> dict[str, Any]:
    """The type at every seam, below every layer: so that `policy: {hidden: 64}` means the default policy."""
    types: dict[str, Any] = {}
    for entry in help_text.entries():
        if entry.name.endswith(".type") and entry.kind is None:
            types = merge(types, nested(entry.name, entry.default))
    return types


def nested(name: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as `{a: {b: value}}`."""
    first, _, rest = name.partition(".")
    return {first: nested(rest, value) if rest else value}


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the innermost settings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _similar(name: str) -> str:
    known = {entry.name for entry in help_text.entries()}
    known |= {name.rpartition(".")[0] for name in known} - {""}
    found = [match for match in difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8) if match != name]
    return f"did you mean {found[0]}? " if found else ""


def build(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of nested dictionaries, the last one strongest.

    Raises BadInput where they cannot be used, or where one was given that has no effect beside the others. A default
    value of the first layer does not count as given: that layer is a recipe, and the settings.yaml of a run, which
    holds every setting, is a recipe too.
    """
    values = default_types()
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
        raise BadInput(explain(error, lambda name: f"; {_similar(name)}--help lists them all")) from error


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


def from_environment() -> dict[str, Any]:
    """ROSEPO_ALIGN__BATCH=64 as `{align: {batch: 64}}`. Raises BadInput for a section that is none."""
    values: dict[str, Any] = {}
    for name, value in sorted(os.environ.items()):
        if name.startswith(_PREFIX) and name not in _NO_SETTINGS:
            setting = name.removeprefix(_PREFIX).lower().replace("__", ".")
            if setting.partition(".")[0] not in Settings.model_fields:
                raise BadInput(f"the environment variable {name} names no setting; --help lists them all")
            values = merge(values, nested(setting, Text(value)))
    return values


def from_arguments(argv: Sequence[str]) -> tuple[dict[str, str | bool], dict[str, Any]]:
    """The command's own options (`recipe`, `dry_run`, `help`) and the settings of a command line. Raises BadInput."""
    options: dict[str, str | bool] = {"recipe": DEFAULT_RECIPE, "dry_run": False, "help": False}
    values: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if word == "-h":
                options["help"] = True
                continue
            raise BadInput(f"'{word}' is no option; give settings as --NAME VALUE, --help lists them all")
        if name in ("help", "dry-run") and not equals:
            options[name.replace("-", "_")] = True
            continue
        if not equals:
            following = next(words, None)
            if following is None or (following.startswith("--") and following != "--"):
                raise BadInput(f"--{name} needs a value; {_similar(name)}--help lists every setting")
            value = following
        if name == "recipe":
            options["recipe"] = value
        else:
            values = merge(values, nested(name, Text(value)))
    return options, values


def parse(argv: Sequence[str], prog: str, description: str) -> Command:
    """The settings of one command line. Raises BadInput; `--help` prints and exits 0."""
    options, given = from_arguments(argv)
    if options["help"]:
        print(_help(prog, description))
        raise SystemExit(0)
    recipe = str(options["recipe"])
    return Command(build(read_recipe(recipe), from_environment(), given), recipe, bool(options["dry_run"]))


def _help(prog: str, description: str) -> str:
    return f"""usage: {prog} [--recipe NAME|FILE] [--dry-run] [--SETTING VALUE …]

{description}

  --recipe NAME|FILE
      Recipe: {", ".join(recipe_names())}, or a YAML file (default: {DEFAULT_RECIPE})
  --dry-run
      Print the resolved settings and the plan, do nothing.

Settings; each can also come from the environment, for example {_PREFIX}ALIGN__OBJECTIVE__BETA=0.2:
{help_text.text()}"""
