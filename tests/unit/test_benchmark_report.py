"""docs/results.md and docs/benchmarks.md show what is in benchmarks/results, and nothing that is met only on paper."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report() -> Any:
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks/report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_results(report: Any):
    for name in report.PAGES:
        page = (ROOT / name).read_text()
        assert page.count("<!-- result: ") == page.count("<!-- end -->") > 0
        assert "@@" not in page
        assert report.filled(page) == page, f"{name} differs from benchmarks/results; run benchmarks/report.py"


def test_another_result_would_change_the_pages(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in report.RESULTS.glob("*.json"):
        (tmp_path / file.name).write_text(re.sub(r'"value": \d', '"value": 9', file.read_text()))
    for file in report.RESULTS.glob("*.md"):
        (tmp_path / file.name).write_text("another table")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for name in report.PAGES:
        page = (ROOT / name).read_text()
        assert report.filled(page) != page


def test_each_result_says_whether_it_met_what_was_asked(report: Any):
    for file in [report.RESULTS / f"{result}.json" for _, _, result in report.ROWS]:
        for name, figure in json.loads(file.read_text())["figures"].items():
            if figure["at_least"] is None:
                continue
            above = figure["value"] >= figure["at_least"]
            met = figure["value"] <= figure["at_least"] if figure["lower_is_better"] else above
            assert figure["met"] is met, f"{file.name}: {name}"


@pytest.mark.parametrize(
    ("number", "text"), [(0.5, "0.500"), (1.0, "1.00"), (9.994, "9.99"), (15.23, "15.2"), (139.4, "139")]
)
def test_digits(report: Any, number: float, text: str):
    assert report.digits(number) == text
