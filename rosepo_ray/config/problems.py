"""What is wrong with settings, in sentences: a seam's kinds and pydantic's own words are told alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from rosepo_ray.config.kinds import InKind

Hint = Callable[[str], str]
"""What is said behind "no such setting" of a dotted name."""


def explain(error: ValidationError, hint: Hint) -> str:
    """Every problem with the dotted name of its setting."""
    return "; ".join(_sentence(problem, "", "", hint) for problem in error.errors())


def _sentence(problem: Any, prefix: str, kind: str, hint: Hint) -> str:
    name = prefix + ".".join(map(str, problem["loc"]))
    inside = problem.get("ctx", {}).get("error")
    if isinstance(inside, InKind):
        kind = f" with {name}.type {inside.kind}"
        return "; ".join(_sentence(one, f"{name}.", kind, hint) for one in inside.problems)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"no such setting{kind}{hint(name)}"
    elif problem["type"] in ("model_type", "model_attributes_type"):
        message = f"this is a section, so name a setting below it (given: {_plain(problem['input'])})"
    elif problem["type"] == "missing":
        message = f"it is not given, and{kind.removeprefix(' with') or ' it'} needs it"
    elif problem["type"] != "value_error":
        message = f"{message} (given: {_plain(problem['input'])})"
    elif message.startswith(name):
        return message
    return f"{name}: {message}" if name else message


def _plain(value: Any) -> str:
    return repr(str(value) if isinstance(value, str) else value)
