"""How to know that no quote of a delimited file is left open."""

from __future__ import annotations

import io
import sys
from typing import Any

MARK = "\x1eend"
"""Starts the row that is appended."""


class Ended(io.RawIOBase):
    """A stream with a row appended that is seen as a row of its own only where no quote is open at the end.

    Arrow takes all that follows an open quote for one field and says nothing.
    """

    def __init__(self, stream: Any, rest: str) -> None:
        """`rest` follows the mark: delimiters that make more fields than the header has, so that no reader takes the
        row for one of the file."""
        self._stream, self._end = stream, f"\n{MARK}{rest}\n".encode()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, until the end: Arrow takes a block without a line break for too long a line."""
        if size < 0:
            size = sys.maxsize
        parts: list[bytes] = []
        while size > 0 and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
        parts.append(self._end[:size])
        self._end = self._end[size:]
        return b"".join(parts)
