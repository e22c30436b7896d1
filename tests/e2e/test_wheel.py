"""The wheel in an environment of its own: its command, its recipes, its code, from any folder."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path) -> str:
    kept_out = ("PYTHONPATH", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of what git knows, so that no leftover of an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for file in call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if file.startswith("rosepo_ray/") or file in ("pyproject.toml", "README.md", "LICENSE"):
            (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / file).write_bytes((ROOT / file).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--disable-pip-version-check", "-w", folder]
    call(*build, folder / "source", cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command lies: a fresh environment that sees the packages of this one, but not its rosepo_ray."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder, cwd=folder)
    own = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    # A .pth line puts a folder at the end of the path and runs no .pth files in it, so no editable install.
    (own / "packages.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    call(
        folder / "bin/python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        wheel,
        cwd=folder,
    )
    return folder / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rosepo_ray"}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rosepo_ray" / "recipes").glob("*.yaml")}
    assert wanted | {"rosepo_ray/py.typed"} <= set(names)


def test_its_code_is_what_runs(bin: Path, tmp_path: Path):
    found = call(bin / "python", "-c", "import rosepo_ray.losses as m; print(m.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(bin.parent)


def test_the_command_works_from_an_empty_folder(bin: Path, tmp_path: Path):
    assert call(bin / "rosepo", "--version", cwd=tmp_path).startswith("rosepo 0.")
    told = call(bin / "rosepo", "align", "--help", cwd=tmp_path)
    assert "quickstart" in told
    assert "--align.objective.beta" in told
    plan = call(bin / "rosepo", "align", "--recipe", "quickstart", "--dry-run", cwd=tmp_path)
    assert "sample: movielens-100k" in plan
    assert "resources:" in plan
    assert not list(tmp_path.iterdir())
