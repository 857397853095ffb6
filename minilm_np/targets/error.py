"""The exception of all targets, and texts in its messages: one line, short, without secrets."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any


class CannotCompareError(ValueError):
    """Raised when a port fails or returns something that cannot be compared."""


def one_line(value: Any, length: int = 200, secrets: Sequence[str] = ()) -> str:
    """Return the start of str(value) on one line, with *** for each secret."""
    longest = max(map(len, secrets), default=0)
    text = str(value)[: 100 * length + (length + 1) * longest]  # the part of a secret at this end is never returned
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe="")):
            text = text.replace(form, "***")
    return " ".join(text.split())[:length]


def without_credentials(name: str) -> str:
    """Return a URL without user name, password and the values of its query; another name is returned as it is."""
    if "://" not in name:
        return name
    address, query, _ = re.sub(r"//[^/?#]*@", "//", name).partition("#")[0].partition("?")
    return address + ("?..." if query else "")
