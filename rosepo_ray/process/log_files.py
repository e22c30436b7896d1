"""Where the lines of a run's log go, and how those of many processes come together in one `run.log`.

Processes on the driver's machine append to `run.log` itself, one write a record: a local disk does not interleave such
writes. An object store cannot append, and over NFS two machines that append overwrite each other: there each process
keeps a file of its own below `logs/`, which the driver joins to `run.log` when the job ends (or starts again).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rosepo_ray import storage
from rosepo_ray.process.log_lines import Line, Who, read, records, time_of

NAME = "run.log"
PARTS = "logs"
HOST = socket.gethostname()
_RECORDS, _SECONDS = 100, 5.0  # what a process that is killed may lose of its log on an object store
_POLL_LOCAL, _POLL_REMOTE = 1.0, 5.0


class Handler(logging.Handler):
    """Writes whole records. A failure to write ends no run: it is said once, and `lost` keeps the reason."""

    lost: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.format(record) + "\n", record.levelno >= logging.WARNING)
        except Exception as error:
            if self.lost is None:
                self.lost = str(error)
                sys.stderr.write(f"warning: lines are missing in the run's log from here on: {error}\n")

    def put(self, text: str, urgent: bool) -> None:
        raise NotImplementedError


class Appended(Handler):
    """Appends to a local file, one write a record."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = False

    def put(self, text: str, urgent: bool) -> None:
        content = (("\n" if self._torn else "") + text).encode()
        written = os.write(self._fd, content)
        self._torn = written < len(content)
        if self._torn:
            raise OSError("a record was cut off; is the disk full?")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


class Rewritten(Handler):
    """A file of this process alone, written whole: for a warning at once, else after 100 records or five seconds."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._lines, self._saved = uri, list[str](), 0
        self._timer: threading.Timer | None = None

    def put(self, text: str, urgent: bool) -> None:
        self._lines.append(text)
        if urgent or len(self._lines) - self._saved >= _RECORDS:
            self._write()
        elif self._timer is None:
            self._timer = threading.Timer(_SECONDS, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._lines) > self._saved:
            storage.write_bytes(self._uri, "".join(self._lines).encode())
            self._saved = len(self._lines)

    def flush(self) -> None:
        self.acquire()
        try:
            self._write()
        except Exception as error:
            self.lost = self.lost or str(error)
        finally:
            self.release()

    def close(self) -> None:
        self.flush()
        super().close()


def handler(run_dir: str, driver_host: str, who: Who) -> Handler:
    """The handler for this process."""
    local = _local(run_dir)
    if local is not None and who.host == driver_host:
        return Appended(local / NAME)
    name = f"{who.name}-{who.host}-{who.pid}-{time.time_ns() // 1_000_000}.log"
    return Rewritten(storage.join(run_dir, PARTS, name)) if local is None else Appended(local / PARTS / name)


def _local(run_dir: str) -> Path | None:
    return Path(storage.filesystem(run_dir)[1]) if storage.is_local(run_dir) else None


def _parts(run_dir: str) -> list[str]:
    folder = storage.join(run_dir, PARTS)
    return [storage.join(folder, name) for name in storage.list_files(folder)]


def join(run_dir: str) -> None:
    """Move the records of all files below `logs/` to `run.log`, in order of time.

    Killed halfway it is simply done again: a record that `run.log` has already is not added twice.
    """
    parts = _parts(run_dir)
    if not parts:
        return
    uri, local = storage.join(run_dir, NAME), _local(run_dir)
    before = storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else ""
    known = set(records(before))
    texts = [storage.read_bytes(part).decode(errors="replace") for part in parts]
    new = sorted((r for text in texts for r in records(text) if r not in known), key=time_of)
    if local is not None:
        with (local / NAME).open("ab") as file:
            file.write("".join(new).encode())
    else:
        storage.write_bytes(uri, (before + "".join(new)).encode())
    for part in parts:
        system, path = storage.filesystem(part)
        system.delete_file(path)
    if local is not None:
        storage.remove_folder(storage.join(run_dir, PARTS))


class Watch:
    """Reads what other processes add to the log and passes on their warnings, each distinct one once."""

    def __init__(self, run_dir: str, show: Callable[[Line], None]) -> None:
        self._run_dir, self._show = run_dir, show
        self._local = _local(run_dir)
        self._read: dict[str, int] = {}
        self._shown: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        if self._local is not None:
            uri = storage.join(self._run_dir, NAME)
            self._read[uri] = Path(self._local, NAME).stat().st_size  # earlier starts had their say
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _POLL_REMOTE if self._local is None else _POLL_LOCAL
        ended = False
        while not ended:
            ended = self._stop.wait(pause)
            try:
                self.poll()
            except Exception as error:  # a storage that stumbles must not end the watch
                sys.stderr.write(f"warning: the workers' log cannot be read ({error})\n")

    def poll(self) -> None:
        uris = _parts(self._run_dir)
        if self._local is not None:
            uris.append(storage.join(self._run_dir, NAME))
        for uri in uris:
            for line in self._added(uri):
                self._pass_on(read(line))

    def _added(self, uri: str) -> list[str]:
        system, path = storage.filesystem(uri)
        with system.open_input_file(path) as stream:
            start = self._read.get(uri, 0)
            if stream.size() <= start:
                return []
            stream.seek(start)
            content = bytes(stream.read())
        content = content[: content.rfind(b"\n") + 1]
        self._read[uri] = start + len(content)
        return content.decode(errors="replace").splitlines()

    def _pass_on(self, line: Line | None) -> None:
        if line is None or line.level not in ("WARNING", "ERROR", "CRITICAL"):
            return
        own = (line.host, line.pid) == (HOST, os.getpid())
        if not own and (line.level, line.message) not in self._shown:
            self._shown.add((line.level, line.message))
            self._show(line)
