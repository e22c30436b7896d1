"""What a line of the run's log looks like, written and read back: for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

Style = Literal["human", "json"]
OWN = "rosepo_ray"
_HEAD = re.compile(r"(\S+Z) (\w+) ([^@\s]+)@(\S+):(\d+) (\S+): (.*)")


@dataclass(frozen=True)
class Who:
    """The process that writes."""

    role: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    @property
    def name(self) -> str:
        return re.sub(r"[^\w.-]+", "-", self.role)


@dataclass(frozen=True)
class Line:
    """The head of one record, read back."""

    level: str
    role: str
    host: str
    pid: int
    message: str


class RunLogFormatter(logging.Formatter):
    """Everything: UTC time, level, role, host, pid, stage, message, traceback."""

    def __init__(self, style: Style, who: Who, stage: Callable[[], str | None]) -> None:
        super().__init__()
        self.json, self.who, self.stage = style == "json", who, stage

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self.json:
            values: dict[str, object] = {"time": time, "level": record.levelname, "role": self.who.name}
            values |= {"host": self.who.host, "pid": self.who.pid, "stage": self.stage(), "logger": record.name}
            values |= {"message": message} | ({"exception": trace} if trace else {})
            return json.dumps(values, ensure_ascii=False)
        if record.name != OWN:
            message = f"[{record.name}] {message}"
        who = f"{self.who.name}@{self.who.host}:{self.who.pid}"
        text = f"{time} {record.levelname} {who} {self.stage() or '-'}: {message}" + (f"\n{trace}" if trace else "")
        return text.replace("\n", "\n    ")  # what begins at the margin is a record's head


class TerminalFormatter(logging.Formatter):
    """The message, without its traceback."""

    def __init__(self, style: Style, redrawn: bool) -> None:
        super().__init__()
        self.json = style == "json"
        self.clear = "\r\033[K" if redrawn and not self.json else ""  # a progress line may stand there

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if self.json:
            time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            values = {"time": time.replace("+00:00", "Z"), "level": record.levelname, "message": message}
            return json.dumps(values, ensure_ascii=False)
        before = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self.clear}{before}{message}"


def read(line: str) -> Line | None:
    """The head of a record of this project's own logger; None for other loggers' and for a traceback's lines."""
    if line.startswith("{"):
        try:
            values = json.loads(line)
            if values["logger"] != OWN:
                return None
            return Line(*(values[name] for name in ("level", "role", "host", "pid", "message")))
        except (ValueError, KeyError, TypeError):
            return None
    found = _HEAD.fullmatch(line)
    if found is None or found[7].startswith("["):
        return None
    return Line(found[2], found[3], found[4], int(found[5]), found[7])


def records(text: str) -> list[str]:
    """A log's text cut into whole records, each with its line end; a half last one is completed by a line end."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and found:
            found[-1] += f"{line}\n"
        else:
            found.append(f"{line}\n")
    return found


def time_of(record: str) -> str:
    """A key that sorts records by time."""
    if record.startswith("{"):
        try:
            return str(json.loads(record)["time"])
        except (ValueError, KeyError, TypeError):
            return ""
    return record.partition(" ")[0]
