"""Recipes, lock, Makefile and the method page agree with the code."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rosepo_ray.run import help, sources
from rosepo_ray.run.settings import Settings

ROOT = Path(__file__).parents[2]
RECIPES = resources.files("rosepo_ray") / "recipes"


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {str(canonicalize_name(name)): version for name, version in found}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", sources.recipe_names())
def test_every_recipe_is_valid_and_starts_with_its_command(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    command = text.splitlines()[0]
    assert command.startswith(("# python jobs/align.py", "# make align")), command
    if command.startswith("# python"):
        arguments = shlex.split(command.removeprefix("# python jobs/align.py"))
        assert sources.parse(arguments, "align", "").recipe == name
    sources.build(sources.read_recipe(name))


def test_the_quickstart_is_what_comes_without_a_recipe() -> None:
    assert sources.DEFAULT_RECIPE in sources.recipe_names()


def test_the_makefile_installs_the_competitors_that_the_project_names() -> None:
    line = re.search(r"^COMPETITORS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    assert line.group(1).split() == project()["project"]["optional-dependencies"]["bench"]


def test_the_makefile_installs_the_tools_of_the_site_that_the_project_names() -> None:
    line = re.search(r"^SITE_TOOLS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    assert line.group(1).split() == project()["project"]["optional-dependencies"]["docs"]


def test_the_site_has_every_page_and_no_other_host() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert "font: false" in text
    assert not re.search(r"analytics|extra_javascript|extra_css|https?://", text)


def test_the_lock_holds_plain_exact_pins_only() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line
    assert pins()["torch"] == "2.13.0"


def test_the_lock_holds_every_dependency_within_its_bounds() -> None:
    table, locked = project()["project"], pins()
    extras = table["optional-dependencies"]
    texts = [text for name in ("ray", "mlflow", "peft", "dev") for text in extras[name]]
    for requirement in map(Requirement, [*table["dependencies"], *texts]):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_all_is_every_extra_that_the_pipeline_uses() -> None:
    extras = project()["project"]["optional-dependencies"]
    assert extras["all"] == ["rosepo_ray[ray,mlflow,peft]"]
    assert extras.keys() == {"ray", "mlflow", "peft", "all", "semantic", "bench", "docs", "dev"}


def test_what_the_library_imports_is_a_base_dependency() -> None:
    """Below the rooms that know MLflow and Ray, at the top of a module or inside."""
    base = {canonicalize_name(Requirement(text).name) for text in project()["project"]["dependencies"]}
    called = {
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "pydantic_core": "pydantic",
        "huggingface_hub": "transformers",
    }
    named = set()
    for file in (ROOT / "rosepo_ray").rglob("*.py"):
        if file.relative_to(ROOT / "rosepo_ray").parts[0] not in ("registry", "on_ray", "stages", "run"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                named |= {name.partition(".")[0] for name in names}
    foreign = named - set(sys.stdlib_module_names) - {"rosepo_ray", "pytest"}
    extra = {"peft", "sentence_transformers"}  # asked for with a sentence where they are missing
    assert {called.get(name, name) for name in foreign} - base == extra


def test_the_package_ships_its_recipes_and_types() -> None:
    assert project()["tool"]["setuptools"]["package-data"]["rosepo_ray"] == ["recipes/*.yaml", "py.typed"]
    assert (resources.files("rosepo_ray") / "py.typed").is_file()


def test_the_version_is_one() -> None:
    version = project()["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == version
    images = re.findall(r"rosepo-ray:([0-9.]+\d)", "".join(p.read_text() for p in (ROOT / "cluster").rglob("*.yaml")))
    assert set(images) == {version}


@pytest.mark.parametrize("target", ["setup", "align", "test", "test-slow", "lint", "clean", "help", "docs"])
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.10.4;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.10.4" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_every_check() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert "for target in setup lint test test-slow" in text


def test_the_method_page_names_settings_that_exist() -> None:
    known = {entry.name for entry in help.entries()}
    sections = "|".join(name for name in Settings.model_fields if name != "seed")
    named = re.findall(rf"`((?:{sections})\.[a-z_.0-9]+)", (ROOT / "docs" / "method.md").read_text())
    assert len(named) > 10
    assert set(named) <= known, sorted(set(named) - known)
