"""How a crawl behaves towards servers: the `[crawl]` table of a manifest, with the defaults of what it leaves out."""

import re
from dataclasses import dataclass

from bitgen.colours import MAX_PIXELS

_DIRECTIVE = re.compile(r"[a-z][a-z-]*")
TDM_RESERVATION = "tdm-reservation"
"""Beside directives of `X-Robots-Tag`: a header of that name with the value 1."""


@dataclass(frozen=True)
class Manners:
    """What servers see of a crawl, and what it takes from them. Raises `ValueError` for what cannot be right."""

    user_agent: str = "bitgen/0.1 (image-text dataset research crawler; python)"
    """Who is asking, and where they can be reached."""
    timeout_s: float = 10.0
    """For a look-up, a connection, and each wait for more bytes."""
    deadline_s: float = 60.0
    """For one image: look-up, redirects and tries included."""
    retries: int = 2
    """After a failure that may pass: a time-out, a lost connection, 408, 425, 429 or 5xx."""
    back_off_s: float = 1.0
    """Before the first retry; doubled for each further one, unless the server says how long (`Retry-After`)."""
    max_bytes: int = 32 << 20
    """Of an image file."""
    per_host: int = 8
    """Images asked of one host at a time. In a manifest: by all processes of a machine, though each may ask for one."""
    opt_outs: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "none", TDM_RESERVATION)
    """Under which an image is left alone: directives of the `X-Robots-Tag` header, for all or for `bitgen:` alone, and
    `tdm-reservation`, a header whose value is 1. Source: https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240202"""
    private: tuple[str, ...] = ()
    """`host:port` that may be asked although they are not public: for tests against a local server. No manifest may
    state it."""

    def __post_init__(self) -> None:
        if not self.user_agent.strip() or not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError(f"expected a user_agent of printable ASCII, found {self.user_agent!r}")
        for name in ("timeout_s", "deadline_s", "max_bytes", "per_host"):
            if getattr(self, name) <= 0:
                raise ValueError(f"expected {name} above 0, found {getattr(self, name)}")
        for name in ("retries", "back_off_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of 0 or more, found {getattr(self, name)}")
        for name in self.opt_outs:
            if not _DIRECTIVE.fullmatch(name):
                raise ValueError(f"expected opt_outs in lower case, found {name!r}")

    @property
    def names_contact(self) -> bool:
        """Whether the User-Agent says where its sender can be reached."""
        return "@" in self.user_agent or "://" in self.user_agent


@dataclass(frozen=True)
class Crawling(Manners):
    """A manifest's `[crawl]` table: manners, and how the work is cut."""

    max_pixels: int = MAX_PIXELS
    """Of an image, as its header says."""
    threads: int = 32
    """In each process: images asked for at a time, of all hosts together."""
    per_shard: int = 10_000
    """URLs that a process takes at a time; their images share a folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_pixels", "threads", "per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of 1 or more, found {getattr(self, name)}")
