"""The packages that not everybody needs, and the sentence for whoever lacks one."""

from __future__ import annotations

from importlib.util import find_spec

from rosepo_ray.errors import BadInput


def need(module: str, extra: str, what: str) -> None:
    """Raises BadInput where `what` needs a module that is not installed and that the `extra` brings."""
    if find_spec(module) is None:
        raise BadInput(f"{what} needs {module}, which is not installed; run: pip install 'rosepo_ray[{extra}]'")
