"""A JSON array of objects as JSON lines, piece by piece: it may be larger than the memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from rosepo_ray.errors import BadInput

_BETWEEN = re.compile(r"[\s,]*")


def begins(start: bytes) -> bool:
    """Whether a file that starts so is an array of objects (lines that are arrays themselves are no rows)."""
    return re.match(rb"\s*\[\s*(\{|\]\s*$)", start) is not None


def lines(chunks: Iterable[bytes], block_bytes: int, path: str) -> Iterator[bytes]:
    """Blocks of lines, an element each, spelled as in the file. Raises BadInput for an element that is no JSON, since
    those behind it cannot be told apart, and for an array that does not end."""
    decoder, scan = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder().raw_decode
    text, count, closed = "", 0, False
    for chunk in chunks:
        text += decoder.decode(chunk)
        place = text.index("[") + 1 if not count and text.lstrip().startswith("[") else 0
        found = []
        while not closed:
            place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing as well
            if text[place : place + 1] == "]":
                closed, place = True, place + 1
                break
            try:
                end = scan(text, place)[1]
            except (json.JSONDecodeError, RecursionError) as error:
                if len(text) - place > block_bytes:
                    raise BadInput(
                        f"element {count + 1} of the array in {path} is no JSON ({error}); mend it"
                    ) from error
                break  # it may go on in the next chunk
            # Line breaks can only stand between the parts of an element.
            found.append(text[place:end].replace("\n", " ").replace("\r", " "))
            place, count = end, count + 1
        text = text[place:]
        if closed and text.strip():
            raise BadInput(f"{path} goes on behind its JSON array ({text.strip()[:60]!r}); give one array or lines")
        yield "".join(f"{line}\n" for line in found).encode()
    if not closed:
        raise BadInput(
            f"the JSON array in {path} breaks off or is broken at element {count + 1} ({text.strip()[:60]!r}); mend it"
        )
