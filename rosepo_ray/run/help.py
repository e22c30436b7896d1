"""Every setting with its meaning and default, read from the settings themselves: `--help` and the reference page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from rosepo_ray.config.kinds import Seam, type_of
from rosepo_ray.config.section import Section
from rosepo_ray.run.settings import Settings


@dataclass(frozen=True)
class Entry:
    """One setting; under a seam, of one kind."""

    name: str
    kind: str | None
    """`oracle.type sasrec`, where only that kind has it."""
    values: str
    default: str
    meaning: str


def entries(section: type[Section] = Settings, prefix: str = "", kind: str | None = None) -> Iterator[Entry]:
    """All settings, in order; those of a seam's kinds one kind after the other."""
    for field, info in section.model_fields.items():
        name = f"{prefix}{field}"
        seam = next((mark for mark in info.metadata if isinstance(mark, Seam)), None)
        inner = _section(info)
        if seam is not None:
            types = [type_of(settings) for settings in seam]
            yield Entry(
                f"{name}.type", kind, " | ".join([*types, "module:Class"]), seam.default_type, info.description or ""
            )
            for settings, type_ in zip(seam, types, strict=True):
                yield from entries(settings, f"{name}.", f"{name}.type {type_}")
        elif inner is not None:
            if _optional(info):
                yield Entry(name, kind, "null", "", f"null does without. {info.description or ''}".strip())
            yield from entries(inner, f"{name}.", kind)
        elif field != "type":
            default = "(needed)" if info.is_required() else _shown(info.default)
            yield Entry(name, kind, _values(info.annotation), default, " ".join((info.description or "").split()))


def _section(info: FieldInfo) -> type[Section] | None:
    for part in (info.annotation, *get_args(info.annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _optional(info: FieldInfo) -> bool:
    return type(None) in get_args(info.annotation)


def _values(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_values(part) for part in get_args(annotation))
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is not None:
        return {"list": "[…]", "dict": "NAME VALUE"}.get(get_origin(annotation).__name__, str(annotation))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def text() -> str:
    """All settings for the terminal."""
    lines, heading = [], None
    for entry in entries():
        if entry.kind != heading:
            heading = entry.kind
            lines.append(f"\nwith --{heading}:" if heading else "")
        lines.append(f"  --{entry.name} {entry.values}")
        tail = f" (default: {entry.default})" if entry.default else ""
        lines.append(f"      {entry.meaning}{tail}")
    return "\n".join(lines)


_PAGE = """# Settings

Every setting with its values, its default and its meaning. They come from a recipe (`--recipe NAME|FILE`), the
environment (`ROSEPO_ALIGN__LR=1e-4`) and the command line (`--align.lr 1e-4`), each over the one before; without
`--recipe` the recipe `quickstart` lies below, so its values and not these defaults count.

This page is written by `python -m rosepo_ray.run.help > docs/settings.md`.
"""


def markdown() -> str:
    """All settings as the page docs/settings.md: a heading a section, below it one for each kind of a seam."""
    lines = [_PAGE]
    for section, group in groupby(entries(), lambda entry: entry.name.partition(".")[0]):
        lines.append(f"## {section}\n")
        own_first = sorted(group, key=lambda entry: entry.kind is not None)
        for kind, rows in groupby(own_first, lambda entry: entry.kind):
            lines += [f"### {kind}\n"] if kind else []
            lines += ["| setting | values | default | meaning |", "|---|---|---|---|", *map(_row, rows), ""]
    return "\n".join(lines)


def _row(entry: Entry) -> str:
    default = f"`{entry.default}`" if entry.default else ""
    cells = (f"`{entry.name}`", f"`{entry.values}`", default, " ".join(entry.meaning.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
