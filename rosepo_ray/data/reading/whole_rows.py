"""Delimited text row by row before Arrow reads it, so that no row can vanish inside a quote.

Arrow takes all that follows an open quote for one field, drops quotes that stand inside quotes, and says nothing. Here
one regular expression says how far a block is well formed; a row that is not becomes one that Arrow refuses.
"""

from __future__ import annotations

import io
import re
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

MARK = "\x1emalformed"
"""Starts the row that stands for a malformed one."""
_ONE_SIGN = b"\x1f"
"""Stands for a separator of several bytes, of which Arrow knows none."""


@dataclass(frozen=True)
class Dialect:
    """How the rows of a file are written; `quote` and `escape` are empty where there is none."""

    separator: bytes
    quote: bytes
    escape: bytes
    header: bool

    @property
    def delimiter(self) -> str:
        """The separator of one byte that Arrow sees."""
        return (self.separator if len(self.separator) == 1 else _ONE_SIGN).decode()

    def rows(self) -> re.Pattern[bytes]:
        """Matches as many well-formed rows as there are. A quoted field ends before a separator or a line break; in a
        TSV it may hold tabs or line breaks, and both together are rows behind a quote that is no quote."""
        sep, quote, escape = (re.escape(sign) for sign in (self.separator, self.quote, self.escape))
        escaped = escape + rb"[\s\S]|" if escape else b""
        plain = rb"(?:" + escaped + rb"(?!" + sep + rb")[^\r\n" + escape + rb"])*+"
        if len(self.separator) == 1:
            plain = rb"(?:" + escaped + rb"[^\r\n" + sep + escape + rb"]++)*+"
        field = plain
        if quote:
            without = [b"\t", rb"\r\n"] if self.separator == b"\t" else [b""]
            inside = [rb"(?:" + escaped + rb"[^" + quote + escape + w + rb"]++|" + quote * 2 + rb")*+" for w in without]
            field = rb"(?:" + quote + rb"(?:" + rb"|".join(i + quote for i in inside) + rb") *+|(?!" + quote + rb")"
            field += plain + rb")"
        return re.compile(rb"(?:" + field + rb"(?:" + sep + field + rb")*+(?:\r\n|\n|\r))*+")


class WholeRows(io.RawIOBase):
    """A stream of well-formed rows; a malformed one is replaced by MARK and `rest`, and its text kept in `malformed`.

    The row behind a malformed one starts on the next line. `rest` are delimiters that make more fields than any row of
    the file has.
    """

    def __init__(self, stream: Any, dialect: Dialect, rest: str, block_bytes: int) -> None:
        self.malformed: deque[str] = deque()
        self._stream, self._dialect, self._block = stream, dialect, block_bytes
        self._mark = f"{MARK}{rest}\n".encode()
        self._good = dialect.rows()
        sep = re.escape(dialect.delimiter.encode())
        self._null = re.compile(rb"(?m)(^|" + sep + rb")\\N(?=[\r\n" + sep + rb"])")
        self._text = self._out = b""  # read but not yet judged; judged but not yet given out
        self._begun = self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, until the end: Arrow takes a block without a line break for too long a line."""
        size = sys.maxsize if size < 0 else size
        parts = [self._out]
        got = len(self._out)
        while got < size and not (self._ended and not self._text):
            parts.append(self._next())
            got += len(parts[-1])
        whole = b"".join(parts)
        if whole[size - 1 : size + 1] == b"\r\n":  # Arrow would lose the second of them, also inside quotes
            size -= 1
        self._out = whole[size:]
        return whole[:size]

    def _next(self) -> bytes:
        """The rows of the next block."""
        chunk = self._stream.read(self._block)
        if not self._begun:
            chunk, self._begun = chunk.removeprefix(b"\xef\xbb\xbf"), True
        text, self._ended = self._text + chunk, not chunk
        if self._ended and not text.endswith((b"\n", b"\r")):
            text += b"\n"
        rows, start = [], 0
        while True:
            end = self._well_formed(text, start)
            rows.append(self._one_sign(text[start:end]))
            if end == len(text) or not (self._ended or len(text) - end > self._block):
                break  # done, or the rest may go on in the next block
            start = text.find(b"\n", end) + 1
            if not start:
                raise pa.ArrowInvalid("straddling")
            self.malformed.append(text[end:start].decode(errors="replace").strip())
            rows.append(self._mark)
        self._text = text[end:]
        return b"".join(rows)

    def _well_formed(self, text: bytes, start: int) -> int:
        """Where the well-formed rows from `start` on end."""
        quote, escape = self._dialect.quote, self._dialect.escape
        if not (quote and text.find(quote, start) >= 0) and not (escape and text.find(escape, start) >= 0):
            return max(start, text.rfind(b"\n") + 1, text.rfind(b"\r") + 1)  # the same, many times as fast
        match = self._good.match(text, start)
        return match.end() if match else start

    def _one_sign(self, rows: bytes) -> bytes:
        if len(self._dialect.separator) > 1:
            if _ONE_SIGN in rows:
                raise pa.ArrowInvalid("the text holds the control sign 1f beside a separator of several signs")
            rows = rows.replace(self._dialect.separator, _ONE_SIGN)
        # Where a backslash escapes, Arrow would read MySQL's \N for "missing" as an N.
        return self._null.sub(rb"\1", rows) if self._dialect.escape == b"\\" and rb"\N" in rows else rows
