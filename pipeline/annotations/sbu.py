"""SBU captions: one JSON of parallel lists, `image_urls`, `user_ids`, `captions`; 1,000,000 Flickr photographs."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations.documents import Document, strings
from pipeline.annotations.links import Link, Links, link_candidates, link_ids
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_LISTS = ("image_urls", "captions")


def read_sbu(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per URL, in file order; `image` is the URL. Raises `AnnotationError`."""
    yield from link_candidates(source, "sbu", _links(source, folder))


def sbu_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_sbu`'s candidates. Raises `AnnotationError`."""
    yield from link_ids(_links(source, folder))


def _links(source: Source, folder: Path) -> Links:
    paths = [folder / name for name in source.annotations]
    starts = [_starts(path) for path in paths]

    def links() -> Iterator[Link]:
        for path, (urls, captions) in zip(paths, starts, strict=True):
            label = f"{path.name}#"
            # Two places in one file go forward side by side.
            pairs = zip(strings(path, urls), strings(path, captions), strict=True)
            for number, (url, caption) in enumerate(pairs):
                yield f"{label}{number}", url.strip() if isinstance(url, str) else "", caption

    return links


def _starts(path: Path) -> tuple[int, int]:
    """The bytes at which the two lists start, after one pass through the file, which is whole."""
    expected = f"an object with lists {' and '.join(_LISTS)}"
    document = Document(path, expected=expected)
    for _ in document:
        pass
    counts = document.counts
    if not counts.keys() >= set(_LISTS):
        found = f"an object with {', '.join(sorted(document.starts)[:8])}"
        raise AnnotationError(f"expected {expected}, found {found}: {path}")
    urls, captions = (counts[key] for key in _LISTS)
    if urls != captions:
        raise AnnotationError(f"expected as many captions as image_urls, {urls}, found {captions}: {path}")
    return document.starts["image_urls"], document.starts["captions"]
