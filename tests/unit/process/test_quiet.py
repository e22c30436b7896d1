"""What libraries would write on the run's terminal."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from rosepo_ray.process import quiet


def test_progress_bars_of_libraries_are_gone():
    code = """
from rosepo_ray.process.quiet import quiet_libraries
quiet_libraries()
import tqdm.auto
from transformers.utils import logging
for bar in (tqdm.auto.tqdm, logging.tqdm):
    assert list(bar(range(3), desc="Loading weights")) == [0, 1, 2]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_native_code_is_silenced_within_and_heard_again_afterwards():
    code = """
import os, sys
from rosepo_ray.process.quiet import native_code_silenced
with native_code_silenced():
    os.write(2, b"announced")
    sys.stderr.write("announced")
os.write(2, b"heard")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heard"


def test_the_raylets_lines_go_to_the_log_alone(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, "rosepo_ray"), quiet.raylet_silenced():
        for line in (
            "before",
            "\x1b[33m(raylet)\x1b[0m WARNING: 8 PYTHON worker processes have been started",
            "between",
        ):
            print(line)  # noqa: T201 - as Ray does
        sys.stdout.flush()
    sys.stdout.write("after\n")
    assert capsys.readouterr().out == "before\nbetween\nafter\n"
    assert "8 PYTHON worker processes" in caplog.text
