"""Which pictures may leave this machine: those whose licence lets anybody pass them on, changed, and for any purpose.

A picture on a page has been resized and has boxes drawn over it, and where it goes may be a company's service. So: the public
domain, CC0, CC BY and CC BY-SA, in words or as the address of the licence's page; neither NC nor ND, and nothing that is only
said to be for research. The whole licence has to be one of these: "annotations CC BY 4.0; photographs of their owners" is none.
"""

import re

_CC = r"cc0|cc[ -]by(?:[ -]sa)?|public domain|pdm"
_VERSION = r"(?:[ -]\d\.\d)?"
_PAGE = r"https?://(?:www\.)?creativecommons\.org/(?:licenses/by(?:-sa)?|publicdomain/(?:zero|mark))/\d\.\d/?"
_ALLOWS = re.compile(rf"(?:{_CC}){_VERSION}|{_PAGE}", re.IGNORECASE)
OURS = frozenset(
    {"CC BY 2.0 and CC BY-SA 2.0 photographs, see CREDITS.csv", "CC0 1.0: drawn, by a program"},
)
"""Of the embedded photographs and of the scenes that `bitgen-shapes` draws, as their manifests say it."""


def may_leave(licence: str) -> bool:
    """Whether a picture under `licence`, as its record states it, may go to others. What is not known may not."""
    return licence in OURS or _ALLOWS.fullmatch(licence.strip()) is not None
