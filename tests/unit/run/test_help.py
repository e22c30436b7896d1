"""The reference of all settings, made from the settings."""

import re
from pathlib import Path

from rosepo_ray.run import help

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_settings_is_that_of_today():
    assert PAGE.read_text(encoding="utf-8") == help.markdown(), (
        "docs/settings.md is stale; run: python -m rosepo_ray.run.help > docs/settings.md"
    )


def test_a_setting_stands_in_the_table_of_its_section_or_kind():
    page = help.markdown()
    tables = dict(re.findall(r"^##+ (.+)\n\n\|.+\|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE))
    assert "`align.sft_weight`" in tables["align"]
    assert "`align.objective.type`" in tables["align"]
    assert "`align.objective.gamma`" in tables["align.objective.type simpo"]
    assert sum(table.count("\n") for table in tables.values()) == len(list(help.entries()))


def test_signs_of_a_table_inside_a_cell_are_escaped():
    row = next(line for line in help.markdown().splitlines() if line.startswith("| `run.log`"))
    assert r"`human \| json`" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
