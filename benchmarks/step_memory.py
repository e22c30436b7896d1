"""The memory that one optimiser step adds, each side in a process of its own.

    python benchmarks/step_memory.py --side packed --rejected 3

Used by step.py. Model, optimiser and a step on one short example come first (they bring what stays: gradients'
buffers, thread pools, the optimiser's state). Then, per round: free memory is given back (malloc_trim), the resident
set is read, its peak is reset (`/proc/self/clear_refs`), one step runs, and the peak is read. Reported is peak minus
resident before. All examples of the step go through one forward and backward pass, on every side: smaller passes need
less memory in proportion on all of them. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import workload
from workload import Workload, adapted_model, examples

SIDES = ("packed", "separate", "trl_cached", "trl_live")


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def added(step: Callable[[], None]) -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def build(side: str, shape: Workload, count: int, rejected: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step on one example and the step that is measured, on one model with one optimiser."""
    batch = examples(shape, count, 1 + rejected)
    if side.startswith("trl"):
        from trl_side import TrlStep, build_trainer

        trainer = build_trainer(shape, batch, cached=side == "trl_cached")
        return TrlStep(trainer, rows=trainer.rows[:1]), TrlStep(trainer)
    from sides import Step, packed_logps, separate_logps

    logps = {"packed": packed_logps, "separate": separate_logps}[side]
    model = adapted_model(shape)
    first, whole = Step(model, logps, batch.pick([0]), 1), Step(model, logps, batch, count)
    whole.optimiser = first.optimiser
    return first, whole


def run_apart(side: str, name: str, count: int, rejected: int, rounds: int) -> list[int]:
    """Bytes per round, measured in a new process."""
    command = [sys.executable, __file__, "--side", side, "--model", name, "--examples", str(count)]
    command += ["--rejected", str(rejected), "--rounds", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--model", choices=["ISSUE", "LARGE", "QUICKSTART", "TINY"], default="ISSUE")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--rejected", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    harness.pin_threads()
    first, step = build(given.side, getattr(workload, given.model), given.examples, given.rejected)
    first()
    print(json.dumps([added(step) for _ in range(given.rounds)]))


if __name__ == "__main__":
    main()
