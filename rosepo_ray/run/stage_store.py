"""Where stages keep what they made, shared by all runs: `STORE/STAGE/FINGERPRINT/`.

A run keeps its settings and the *names* of its stage folders (`stages.json`); with another beta it names the same SFT,
oracle and pairs, which are then taken, not made again. Every run enters itself in the store, which so knows what is
still named by one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rosepo_ray import storage
from rosepo_ray.config.run import RunSettings
from rosepo_ray.process import signals
from rosepo_ray.process.repeating import repeating
from rosepo_ray.seeds import derive
from rosepo_ray.storage import disk_space, done

LOGGER = logging.getLogger(__name__)

NAMES = "stages.json"
RUNS = "_runs"
_POLL_SECONDS = 1.0
_LEASE_SECONDS = 60.0
"""How long a lease lasts that nobody renews: what a killed run makes another one wait on an object store."""


def root(settings: RunSettings, run_dir: str) -> str:
    """The store of a run: `run.stages`, else the folder `stages` beside the run directory."""
    if settings.stages is None:
        return storage.join(storage.parent(run_dir), "stages")
    given = settings.stages
    return given.rstrip("/") if "://" in given else str(Path(given).expanduser().absolute())


def names(run_dir: str) -> dict[str, str]:
    """Stage -> folder, as the run has named them so far."""
    uri = storage.join(run_dir, NAMES)
    return dict(storage.read_json(uri)) if storage.exists(uri) else {}


def name_folders(store: str, run_dir: str, folders: Mapping[str, str]) -> None:
    """Keep the names of a run's stage folders, in the run directory and in the store."""
    storage.write_json(storage.join(run_dir, NAMES), dict(folders))
    entry = f"{derive(0, run_dir):016x}.json"
    storage.write_json(storage.join(store, RUNS, entry), {"run_dir": run_dir, "folders": sorted(folders.values())})


@contextmanager
def claimed(folder: str, run_dir: str) -> Iterator[None]:
    """Hold a stage's folder for one run; while another holds it, wait.

    On a local disk by a lock that ends with its process; on an object store, which has none, by a lease with owner and
    expiry that is renewed meanwhile. Whoever waited looks first whether the stage is finished now.
    """
    if storage.is_local(folder):
        with _locked(f"{folder}.lock", folder):
            yield
        return
    lease = _Lease(_beside(folder, "lease"), run_dir)
    while not lease.taken():
        _wait(folder)
    with lease.renewed():
        yield


def _beside(folder: str, suffix: str) -> str:
    address, mark, options = folder.partition("?") if "://" in folder else (folder, "", "")
    return f"{address}.{suffix}{mark}{options}"


@contextmanager
def _locked(file: str, folder: str) -> Iterator[None]:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    told = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_POLL_SECONDS)
        except Timeout:
            _wait(folder, told)
            told = True
    try:
        yield
    finally:
        lock.release()


def _wait(folder: str, told: bool = False) -> None:
    signals.raise_if_asked()
    if not told:
        LOGGER.info("another run makes %s; waiting for it", folder)


@dataclass
class _Lease:
    """`{owner, expires}`. Two that write at once both look again: the last to write owns it. The owner is the run
    directory, so that a run that was killed goes on at once."""

    uri: str
    owner: str

    def taken(self) -> bool:
        found = self._read()
        if found is not None and found["owner"] != self.owner and found["expires"] > time.time():
            time.sleep(_POLL_SECONDS)
            return False
        self._write()
        time.sleep(_POLL_SECONDS)
        found = self._read()
        return found is not None and found["owner"] == self.owner

    @contextmanager
    def renewed(self) -> Iterator[None]:
        try:
            with repeating(_LEASE_SECONDS / 4, self._write):
                yield
        finally:
            storage.remove_file(self.uri)

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(storage.read_bytes(self.uri))) if storage.exists(self.uri) else None
        except (ValueError, FileNotFoundError):  # removed meanwhile, or half-written
            return None

    def _write(self) -> None:
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        storage.write_json(self.uri, {"owner": self.owner, "expires": time.time() + _LEASE_SECONDS, **who})


@dataclass(frozen=True)
class Stored:
    """One folder of the store."""

    stage: str
    folder: str
    bytes: int
    seconds: float | None
    """What it took; None where it is not finished."""
    runs: list[str]
    """Directories of the runs that name it."""


def listed(store: str) -> list[Stored]:
    """Everything in the store, stage by stage."""
    users: dict[tuple[str, str], list[str]] = {}
    for run_dir, folders in _runs(store):
        for folder in folders:  # by their names: `store` may be another way to the same place, as a relative path is
            users.setdefault((storage.name(storage.parent(folder)), storage.name(folder)), []).append(run_dir)
    sizes: dict[tuple[str, str], int] = {}
    for name, size in storage.sizes(store).items():
        stage, _, rest = name.partition("/")
        fingerprint, slash, _ = rest.partition("/")
        if slash and stage != RUNS:
            sizes[stage, fingerprint] = sizes.get((stage, fingerprint), 0) + size
    found = []
    for (stage, fingerprint), size in sorted(sizes.items()):
        folder = storage.join(store, stage, fingerprint)
        marker = done.read(folder)
        seconds = None if marker is None else float(marker["seconds"])
        found.append(Stored(stage, folder, size, seconds, sorted(users.get((stage, fingerprint), []))))
    return found


def _runs(store: str) -> Iterator[tuple[str, list[str]]]:
    """The runs that still are: their directory holds the names of their stages."""
    for name in storage.list_files(storage.join(store, RUNS)):
        entry = storage.read_json(storage.join(store, RUNS, name))
        if storage.exists(storage.join(entry["run_dir"], NAMES)):
            yield entry["run_dir"], entry["folders"]


def prune(store: str) -> list[Stored]:
    """Remove what no run names; what was removed."""
    unused = [stored for stored in listed(store) if not stored.runs]
    for stored in unused:
        storage.remove_folder(stored.folder)
        storage.remove_file(_beside(stored.folder, "lock"))
    for name in storage.list_files(storage.join(store, RUNS)):
        uri = storage.join(store, RUNS, name)
        if not storage.exists(storage.join(storage.read_json(uri)["run_dir"], NAMES)):
            storage.remove_file(uri)
    return unused


def table(found: list[Stored]) -> str:
    """For the terminal: a line a folder."""
    lines = [f"{'stage':12} {'fingerprint':14} {'size':>10} {'took':>9}  used by"]
    for one in found:
        took = "unfinished" if one.seconds is None else f"{one.seconds:.0f} s"
        users = ", ".join(one.runs) or "no run"
        size = disk_space.amount(one.bytes)
        lines.append(f"{one.stage:12} {storage.name(one.folder):14} {size:>10} {took:>10}  {users}")
    return "\n".join(lines)
