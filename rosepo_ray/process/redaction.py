"""Settings as flat text for a tracking server, without the secrets that an address can carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

HIDDEN = "***"
# User and password, or a lone token, before the host: s3://KEY:SECRET@bucket, https://TOKEN@host.
_CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")
_SECRET_NAME = re.compile(r"key|secret|token|password|passwd|signature|credential|^sig$|^auth", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with credentials in addresses hidden: those before the host, and query values with a secret's name."""
    text = _CREDENTIALS.sub(f"{HIDDEN}@", text)
    if "://" not in text or "?" not in text:
        return text
    parts = urlsplit(text)
    query = [
        (name, HIDDEN if _SECRET_NAME.search(name) else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(query=urlencode(query, safe="*/:")))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as {"section.name": text}, every text through :func:`redact`; null stays the word null."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = "null" if value is None else redact(str(value))
    return flat
