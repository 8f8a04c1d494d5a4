"""What arrives from a URL, why it does not, and the URL as people may see it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#\s]*@)?((?:(?!::)[^?#\s])*)(?:[?#](?:(?!::)\S)*)?")
"""A URL, or one of several that `::` chains."""


class TryAgainError(Exception):
    """This try failed, the next may not; `wait_s` where the server said when."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class StaleError(TryAgainError):
    """Likewise, but what has arrived so far is of no use."""


class MirrorError(Exception):
    """This mirror will not give the file."""


class AbsentError(MirrorError):
    """It has none."""


@dataclass(frozen=True)
class Arrival:
    """What a server sends of a file."""

    start: int
    """Where in the file `chunks` begin."""
    total: int | None
    """Bytes of the whole file; None: not said."""
    validator: str
    """What tells this version of the file from others; empty: nothing does."""
    content_type: str
    chunks: Iterator[bytes]
    """Raises `TryAgainError` where the connection is lost."""
    is_part: bool = False
    """Whether the server took note of the place asked for."""


def is_http(url: str) -> bool:
    """Whether requests opens it."""
    return bool(re.match(r"https?:", url, re.IGNORECASE))


def has_secrets(url: str) -> bool:
    """Whether a URL, or one of several that `::` chains, has a user, password, query or fragment."""
    rests = [part.partition("://")[2] for part in url.split("::")]
    return any("@" in rest.partition("/")[0] or "?" in rest or "#" in rest for rest in rests)


def shown(url: str | Path) -> str:
    """`url`, or all URLs in a text, as people may see them: without user, password, query and fragment, where secrets
    are; a path as it is."""
    return _URL.sub(r"\1\2", str(url))
