"""Where the image of a candidate lies, or why there is none."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.crawling.crawled import Crawled
from pipeline.manifest import Source

Locate = Callable[[str], Path | str]
"""A candidate's `image` -> its file, or the outcome of its rows where there is none."""


def locate_for(source: Source, raw: Path) -> Locate:
    """Finds the images of `source`: paths under its roots, and URLs in what was crawled into the first of them."""
    roots = [raw / source.manifest / root for root in source.images]
    if not source.crawl:
        return locate_under(roots)
    crawled, under = Crawled(roots[0]), locate_under(roots)
    return lambda image: crawled.find(image) if is_url(image) else under(image)


def locate_under(roots: Sequence[Path]) -> Locate:
    """Finds images by their path under the first of `roots` that has them."""

    def locate(image: str) -> Path | str:
        name = PurePosixPath(image)
        if not image or "\0" in image or name.is_absolute() or ".." in name.parts:
            return "bad_path"
        return next((path for root in roots if os.path.isfile(path := root / name)), "no_image")  # never raises

    return locate


def is_url(image: str) -> bool:
    """Whether a candidate's `image` has to be crawled."""
    return image.startswith(("http://", "https://"))
