"""Jobs as real processes: started as a user starts them, looked into, and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}


def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python jobs/NAME.py ARGUMENTS`, to its end."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )


class Started:
    """A job under way. As a context it leaves no process behind, however the test ends."""

    def __init__(self, name: str, *arguments: str, output: Path) -> None:
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, f"jobs/{name}.py", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
        self.known: set[psutil.Process] = set()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill_everything()

    def tree(self) -> set[psutil.Process]:
        """Every process that the job started and that still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.known |= set(psutil.Process(self.process.pid).children(recursive=True))
        return {process for process in self.known if process.is_running() and _status(process) != "zombie"}

    def called(self, title: str) -> list[psutil.Process]:
        """Running processes of the job whose title (Ray names its workers) contains `title`."""
        return [process for process in self.tree() if title in _title(process)]

    def wait_for(self, what: Callable[[], object], seconds: float = 300) -> None:
        limit = time.monotonic() + seconds
        while not what():
            if self.process.poll() is not None:
                raise AssertionError(f"the job ended too early:\n{self.output.read_text()[-3000:]}")
            if time.monotonic() > limit:
                raise AssertionError(f"nothing happened in {seconds} s:\n{self.output.read_text()[-3000:]}")
            time.sleep(0.03)

    def end(self, seconds: float = 400) -> int:
        return self.process.wait(seconds)

    def kill_driver(self) -> None:
        """SIGKILL for the driver alone; waits until whatever could still write to the run has followed it."""
        self.tree()
        self.process.kill()
        self.process.wait()
        limit = time.monotonic() + 60
        while (left := self._left()) and time.monotonic() < limit:
            time.sleep(0.2)
        assert not left, f"these outlived the driver: {left}"

    def _left(self) -> list[str]:
        # Ray's agents look after their raylet only now and then; they touch nothing of ours.
        return [title for process in self.tree() if "Agent" not in (title := _title(process).strip()) and title]

    def kill_everything(self) -> None:
        """SIGKILL for the driver and everything that it started, all at once."""
        for process in [*self.tree()]:
            _kill(process)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in self.tree():
            _kill(process)

    def terminate(self) -> None:
        self.tree()
        self.process.send_signal(signal.SIGTERM)


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return "zombie"
