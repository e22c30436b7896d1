"""A benchmark runs to its end and leaves what its result promises; the figures of a tiny model mean nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_scoring_of_a_tiny_model(tmp_path: Path):
    command = [sys.executable, "benchmarks/scoring.py", "--model", "TINY", "--rounds", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scoring.json").read_text())
    assert set(result) >= {"figures", "details", "machine", "versions", "revision", "date", "command"}
    for figure in result["figures"].values():
        assert figure["rounds"] == 2
        assert 0 < figure["low"] <= figure["value"] <= figure["high"]
    assert (tmp_path / "scoring.png").read_bytes()[1:4] == b"PNG"
    assert "`score20_vs_naive`" in (tmp_path / "scoring.md").read_text()


@pytest.mark.parametrize(("script", "competitor"), [("step", "trl"), ("data_vs_polars", "polars")])
def test_a_competitor_that_is_not_installed_is_a_sentence(script: str, competitor: str):
    if importlib.util.find_spec(competitor) is not None:
        pytest.skip(f"{competitor} is installed")
    command = [sys.executable, f"benchmarks/{script}.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"measures against {competitor}" in done.stderr
    assert "make bench" in done.stderr
