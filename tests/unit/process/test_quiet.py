"""What libraries would write on the run's terminal."""

from __future__ import annotations

import subprocess
import sys


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
