"""One address that answers questions about scores: patient where it is down or busy, strict about what it says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rosepo_ray.errors import BadInput, RosepoError, chain, clip
from rosepo_ray.oracle.retries import pause

_LARGEST = 3.4e38
"""Scores are kept as float32."""
_BYTES_PER_ROW, _BYTES_PER_SCORE, _OTHER_BYTES = 64, 96, 1 << 16
"""An answer may be this large: more is no list of numbers."""
_TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Reply(BaseModel):
    """What the address says; anything else in its answer is passed over."""

    model_config = ConfigDict(strict=True)

    version: str = Field(max_length=200, pattern=r"^[^\x00-\x1f]+$")
    scores: list[list[Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]]]
    known: list[list[bool]] | None = None


class _Busy(Exception):
    """It answers, but not now."""


@dataclass(frozen=True)
class Endpoint:
    """Asks `url`; each request is tried `attempts` times, for `timeout` seconds."""

    url: str
    token_env: str | None
    timeout: float
    attempts: int

    def ask(self, users: Sequence[str], histories: Sequence[list[str]], items: Sequence[list[str]]) -> Reply:
        """The scores of the items of each row. Raises RosepoError where no usable answer comes; there is no default."""
        body = json.dumps({"users": list(users), "histories": list(histories), "items": list(items)}).encode()
        sizes = [len(row) for row in items]
        largest = _OTHER_BYTES + _BYTES_PER_ROW * len(sizes) + _BYTES_PER_SCORE * sum(sizes)
        return self._checked(self._patiently(body, largest), sizes)

    def _patiently(self, body: bytes, largest: int) -> bytes:
        failure = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(pause(attempt - 1, f"{self.url} {os.getpid()}"))
            try:
                return self._once(body, largest)
            except (_Busy, *_TRANSIENT) as error:
                failure = _reason(error)
            except requests.RequestException as error:
                raise self._unusable(f"cannot be asked ({_reason(error)})") from error
        raise RosepoError(
            f"the oracle at {self.url} did not answer, tried {self.attempts} x; the last failure was: {failure}. Start "
            "it or correct oracle.url, then start the run again"
        )

    def _once(self, body: bytes, largest: int) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        # A redirection would turn the POST into a GET, and may send the token to another host.
        with self._session.post(
            self.url,
            data=body,
            headers=headers,
            timeout=self.timeout,
            auth=self._authorise,
            allow_redirects=False,
            stream=True,
        ) as response:
            status = response.status_code
            if status == 429 or status >= 500:
                raise _Busy(f"it answers {status}")
            if status != 200:
                raise self._unusable(
                    f"answers {status}: it takes no such request, wants a token (oracle.token_env), or moved"
                )
            found = bytearray()
            for chunk in response.iter_content(1 << 16):
                found += chunk
                if len(found) > largest:
                    raise self._unusable(f"answers with more than the {largest} bytes that the question can need")
            return bytes(found)

    @cached_property
    def _session(self) -> requests.Session:
        return requests.Session()

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As `auth`, it also keeps `requests` from sending what a .netrc file holds for that host.
        if self.token_env is not None:
            token = os.environ.get(self.token_env)
            if not token or not token.isascii() or not token.isprintable():  # the libraries below would print it
                raise BadInput(
                    f"the environment variable {self.token_env}, named by oracle.token_env, holds no token; set it on "
                    "every node, without a line break, or leave oracle.token_env out"
                )
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def _checked(self, body: bytes, sizes: list[int]) -> Reply:
        try:
            reply = Reply.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            told = clip(f"{where}: {first['msg']}", 200)
            raise self._unusable(f"answers something else than asked ({told})") from None
        for name, rows in (("scores", reply.scores), ("known", reply.known)):
            got = sizes if rows is None else [len(row) for row in rows]
            if got != sizes:
                raise self._unusable(
                    f"answers {sum(got)} values of '{name}' in {len(got)} rows, asked were {sum(sizes)} in {len(sizes)}"
                )
        return reply

    def _unusable(self, what: str) -> RosepoError:
        return RosepoError(
            f"the oracle at {self.url} {what}; see docs/method.md for what it must answer, and correct it or oracle.url"
        )


def _reason(error: BaseException) -> str:
    """In a few words: what the operating system says, where it is at the bottom of it."""
    told: list[Any] = [found.strerror for found in chain(error) if isinstance(found, OSError) and found.strerror]
    if isinstance(error, requests.Timeout):
        return "it took longer than oracle.timeout"
    return clip(str(told[-1] if told else error) or type(error).__name__, 200)
