"""SBU captions: one JSON of parallel lists, `image_urls`, `user_ids`, `captions`; 1,000,000 Flickr photographs."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations.documents import read_json, value
from pipeline.annotations.links import Link, link_candidates
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate


def read_sbu(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per URL, in file order; `image` is the URL. Raises `AnnotationError`."""
    rows: list[Link] = []
    for name in source.annotations:
        path = folder / name
        document = read_json(path)
        if not isinstance(document, dict):
            raise AnnotationError(
                f"expected an object with lists image_urls and captions, found {document!r:.40}: {path}"
            )
        urls, captions = (value(document, key, list, str(path)) for key in ("image_urls", "captions"))
        if len(urls) != len(captions):
            raise AnnotationError(
                f"expected as many captions as image_urls, {len(urls)}, found {len(captions)}: {path}"
            )
        rows += [
            (f"{path.name}#{number}", url.strip() if isinstance(url, str) else "", caption)
            for number, (url, caption) in enumerate(zip(urls, captions, strict=True))
        ]
    yield from link_candidates(source, "sbu", lambda: iter(rows))
