"""Every example runs as its first lines say, and so does the Python of the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rosepo_ray.run import sources
from tests import tiny_models

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WITHOUT = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"
"""Whoever imports one of the two now fails."""


def run(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(EXAMPLES)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", path + code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def example(name: str) -> str:
    return f"import runpy; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')\n"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_is_short(file: Path):
    assert len(file.read_text().splitlines()) <= 100


@pytest.mark.slow
def test_alignment_without_ray_and_mlflow_improves_the_policy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = run(WITHOUT + example("align_without_ray.py"))
    before, after = (float(re.search(rf"HR@1 {name} +(\S+)", told).group(1)) for name in ("sft", "aligned"))  # type: ignore[union-attr]
    assert before > 0.2  # of 8 candidates one is right by chance in 0.125
    assert after > before


@pytest.mark.slow
def test_candidates_are_scored_by_any_causal_model(tmp_path: Path):
    folder = tiny_models.save(tmp_path, "llama", ["Star Wars (1977)", "Titanic (1997)"])
    told = run(WITHOUT + example("score_candidates.py"), str(folder))
    assert sorted(re.findall(r"\((\d+)\)$", told, re.MULTILINE)) == ["181", "313", "98"]
    assert "best of all:" in told
    assert "written:" in told


@pytest.mark.slow
def test_own_kinds_run():
    assert "2 - 1.5 = 0.5" in run(WITHOUT + example("own_objective.py"))
    assert sorted(eval(run(WITHOUT + example("own_strategy.py")))) == ["Star Trek", "Stardust"]


def test_own_kinds_are_chosen_by_import_path_as_their_commands_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name, section, kind in (("own_objective", "align", "objective"), ("own_strategy", "rejection", "strategy")):
        command = re.search(r"rosepo align (--.+)", (EXAMPLES / f"{name}.py").read_text())
        assert command is not None
        _, given = sources.from_arguments(command.group(1).split())
        settings = getattr(getattr(sources.build(given), section), kind)
        assert settings.type.startswith(f"{name}:")


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    data = (
        "import align_without_ray\ntaken, titles = align_without_ray.made_up_log(users=40)\nsettings = "
        "{'policy': {'hidden': 16, 'layers': 1, 'heads': 2, 'vocabulary': 300}, 'oracle': {'type': 'popularity'}}\n"
    )
    assert run(WITHOUT + data + blocks[0], cwd=tmp_path)
