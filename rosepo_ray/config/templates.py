"""Prompts of one's own as Jinja2 text: sandboxed, and kept as text in the settings, so that a run, its fingerprint and
its packaged model hold what was asked and no path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

ENDINGS = (".j2", ".jinja", ".jinja2")
_BYTES = 64 << 10


def is_jinja(text: str) -> bool:
    return "{{" in text or "{%" in text


def read(path: str) -> str:
    """The text of a template's file. Raises ValueError where there is none that can be used."""
    try:
        data = Path(path).expanduser().read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the template file '{path}' cannot be read ({error})") from error
    if len(data) > _BYTES:
        raise ValueError(f"the template file '{path}' has {len(data)} bytes; a prompt's has {_BYTES} at most")
    if not is_jinja(text):
        raise ValueError(
            f"the template file '{path}' shows no history; write {{{{ history | join('\\n') }}}} where it goes"
        )
    return text


@lru_cache(maxsize=8)
def writer(text: str) -> Callable[[Sequence[str], Sequence[str] | None], str]:
    """From the titles of a history and of the candidates, where the prompt lists them, to the prompt's text."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(text)

    def write(history: Sequence[str], candidates: Sequence[str] | None) -> str:
        return template.render(history=list(history), candidates=None if candidates is None else list(candidates))

    return write


def checked(text: str) -> str:
    """The text itself, tried out. Raises ValueError where it is no template, or shows no history."""
    from jinja2 import TemplateError

    try:
        told = writer(text)(["\x01first", "\x01second"], ["\x01other"])
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(
            f"the prompt's Jinja2 template fails ({type(error).__name__}: {error}); it is given `history` and "
            "`candidates`"
        ) from error
    if "\x01second" not in told:
        raise ValueError(
            "the prompt's Jinja2 template shows no history: write {{ history | join(', ') }} where it goes"
        )
    return text
