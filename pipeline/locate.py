"""Where the image of a candidate lies, or why there is none."""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.crawling.crawled import Crawled
from pipeline.manifest import Source


class Located(NamedTuple):
    """A file, as it is now."""

    path: str
    stamp: str
    """Size and time of change, by which a later build knows it again."""


Locate = Callable[[str], Located | str]
"""A candidate's `image` -> its file, or the outcome of its rows where there is none."""


def locate_for(source: Source, raw: Path) -> Locate:
    """Finds the images of `source`: paths under its roots, and URLs in what was crawled into the first of them."""
    roots = [raw / source.manifest / root for root in source.images]
    if not source.crawl:
        return locate_under(roots)
    crawled, under = Crawled(roots[0]), locate_under(roots)

    def locate(image: str) -> Located | str:
        if not is_url(image):
            return under(image)
        found = crawled.find(image)
        return found if isinstance(found, str) else _located(str(found)) or "no_image"

    return locate


def locate_under(roots: Sequence[Path]) -> Locate:
    """Finds images by their path under the first of `roots` that has them."""
    folders = [f"{root}/" for root in roots]

    def locate(image: str) -> Located | str:
        if not image or "\0" in image or image.startswith("/") or ".." in image.split("/"):
            return "bad_path"
        return next((found for folder in folders if (found := _located(folder + image))), "no_image")

    return locate


def is_url(image: str) -> bool:
    """Whether a candidate's `image` has to be crawled."""
    return image.startswith(("http://", "https://"))


def _located(path: str) -> Located | None:
    """The file at `path`, if there is one; never raises."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return Located(path, f"{status.st_size} {status.st_mtime_ns}") if stat.S_ISREG(status.st_mode) else None
