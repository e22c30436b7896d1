"""A ranker that somebody else runs, asked over HTTP.

POST of {"users": [u], "histories": [[item, oldest first]], "items": [[item]]} as JSON, answered by {"version": text,
"scores": [[number]], "known": [[true | false]]} in the same order and shape. Without `known` it knows all items; of one
that it does not know it should give the mean score of the others. A question without rows asks for the version alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.errors import BadInput, Refused, RosepoError
from rosepo_ray.losses import ObjectiveSettings
from rosepo_ray.oracle.http_endpoint import Endpoint
from rosepo_ray.oracle.protocol import Making, Scores, ScoringOracle, refuse_temperature
from rosepo_ray.process.redaction import HIDDEN, redact

_SCORES_AT_ONCE = 1 << 15
"""Scores that one request asks for at most: a catalogue goes in pieces."""
_FIRST_LOOK = 10.0
"""Seconds that the address has to answer before the first stage."""


@ORACLES.kind
class Http(ScoringOracle):
    """A ranker of your own behind an address (see docs/method.md). Each stream of pairs asks it directly."""

    served: ClassVar[bool] = False
    type: Literal["http"] = "http"
    url: str
    """Where it takes questions by POST."""
    version: str | None = None
    """The version that it must call itself; null keeps to the one that it has when the run begins."""
    batch: int = Field(128, ge=1)
    """Rows per request at most."""
    timeout: float = Field(60.0, gt=0)
    """Seconds to wait for a connection, and for each part of an answer."""
    attempts: int = Field(6, ge=1)
    """How often a request is tried where nobody answers, or with 429 or 5xx."""
    token_env: str | None = None
    """Environment variable, on every node, whose value is sent as a bearer token."""

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if HIDDEN in redact(url):
            raise ValueError(
                f"oracle.url {redact(url)} holds credentials, which would be stored with the settings; put the token "
                "into an environment variable and name it by oracle.token_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError(f"oracle.url '{url}' is no address; give http:// or https:// with a host")
        return url

    @field_validator("token_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError("oracle.token_env is no name of an environment variable; give the name, not the token")
        return name

    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.token_env, self.timeout, self.attempts)

    def remote_version(self, endpoint: Endpoint) -> str:
        """The version that answers. Raises BadInput where `version` asks for another."""
        found = endpoint.ask([], [], []).version
        if self.version not in (None, found):
            raise BadInput(
                f"oracle.version is '{self.version}', but the oracle at {self.url} calls itself '{found}'; start that "
                "version, or correct oracle.version"
            )
        return found

    def refuse_hopeless_run(self, objective: ObjectiveSettings) -> None:
        once = replace(self.endpoint(), attempts=1, timeout=min(self.timeout, _FIRST_LOOK))
        try:
            self.remote_version(once)
        except RosepoError as error:
            raise BadInput(str(error)) from error

    def prepare(self, making: Making) -> HttpOracle:
        return HttpOracle(self, self.remote_version(self.endpoint()), 1.0)

    @classmethod
    def load(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> HttpOracle:
        settings = cls.model_validate(description["settings"])
        return HttpOracle(settings, description["remote"], float(description["temperature"]))


@dataclass(frozen=True)
class HttpOracle:
    """The ranker at an address, as long as it calls itself by the version `remote`."""

    kind: ClassVar[str] = "http"
    items: ClassVar[None] = None
    settings: Http
    remote: str
    temperature: float

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def version(self) -> str:
        return f"{self.remote}/T={self.temperature:.9g}"

    @cached_property
    def _endpoint(self) -> Endpoint:
        return self.settings.endpoint()

    def with_temperature(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)

    def description(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(), "remote": self.remote, "temperature": self.temperature}

    def weights(self) -> dict[str, Tensor]:
        return {}

    def score(
        self, user_ids: Sequence[str], histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]]
    ) -> Scores:
        """See :meth:`rosepo_ray.oracle.protocol.Oracle.score`. Raises Refused where another version answers."""
        if not len(user_ids) == len(histories) == len(items):
            raise RosepoError(f"{len(user_ids)} users, {len(histories)} histories and {len(items)} lists of items")
        scores = [np.zeros(len(row), np.float32) for row in items]
        known = [np.zeros(len(row), bool) for row in items]
        for pieces in _requests([len(row) for row in items], self.settings.batch):
            users = [user_ids[row] for row, _ in pieces]
            asked = [list(items[row][part]) for row, part in pieces]
            reply = self._endpoint.ask(users, [list(histories[row]) for row, _ in pieces], asked)
            if reply.version != self.remote:
                raise Refused(
                    f"the oracle at {self.settings.url} is now '{reply.version}', but this run began with "
                    f"'{self.remote}': one run must not mix them; put that version back and run again, or give "
                    f"--oracle.version '{reply.version}' and another --run.dir to begin anew with it"
                )
            for number, (row, part) in enumerate(pieces):
                scores[row][part] = reply.scores[number]
                known[row][part] = True if reply.known is None else reply.known[number]
        return scores, known


def _requests(sizes: Sequence[int], rows: int) -> Iterator[list[tuple[int, slice]]]:
    """Groups of (row, part of its items) in order, each of at most `rows` parts and _SCORES_AT_ONCE items."""
    group: list[tuple[int, slice]] = []
    room = _SCORES_AT_ONCE
    for row, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            group.append((row, slice(start, stop)))
            room -= stop - start
            start = stop
            if len(group) == rows or room == 0:
                yield group
                group, room = [], _SCORES_AT_ONCE
    if group:
        yield group
