"""The front door: its names, and that it opens without loading what is behind it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rosepo_ray

ROOT = Path(__file__).parents[2]


def test_the_names_are_those_that_the_page_lists():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "library.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(rosepo_ray.__all__)


def test_every_name_is_there_and_nothing_else():
    for name in rosepo_ray.__all__:
        assert getattr(rosepo_ray, name) is not None
    assert set(rosepo_ray.__all__) <= set(dir(rosepo_ray))
    with pytest.raises(AttributeError, match="no attribute 'polices'"):
        rosepo_ray.polices  # noqa: B018


def test_type_checkers_see_the_same_objects():
    """The imports for them alone, against the places from which the names really come."""
    tree = ast.parse((ROOT / "rosepo_ray" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for name in node.names:
            shown[name.asname or name.name] = f"{node.module}.{name.name}"
    assert shown == {name: place.replace(":", ".") for name, place in rosepo_ray._PLACES.items()}
    assert sorted(shown) == sorted(rosepo_ray.__all__)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, rosepo_ray; print(*{name.partition('.')[0] for name in sys.modules})"
    assert not {"torch", "transformers", "ray", "mlflow", "numpy", "pyarrow", "pydantic"} & set(python(code).split())


@pytest.mark.slow
def test_a_star_import_brings_the_names_and_neither_ray_nor_mlflow():
    code = (
        "import sys; before = set(dir())\nfrom rosepo_ray import *\n"
        "assert not {'ray', 'mlflow'} & set(sys.modules)\nprint(*set(dir()) - before - {'before'})"
    )
    assert sorted(python(code).split()) == sorted(rosepo_ray.__all__)
