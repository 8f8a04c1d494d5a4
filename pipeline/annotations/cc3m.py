"""Conceptual Captions 3M: a TSV of `caption<TAB>url`, 3,318,333 rows to train on."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations.links import Link, link_candidates
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate


def read_cc3m(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per URL, in file order; `image` is the URL. Raises `AnnotationError`."""
    yield from link_candidates(source, "cc3m", lambda: _links(source, folder))


def _links(source: Source, folder: Path) -> Iterator[Link]:
    for name in source.annotations:
        path = folder / name
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file):
                    caption, tab, url = line.rstrip("\r\n").partition("\t")
                    if not tab:
                        raise AnnotationError(
                            f"expected caption<TAB>url, found {line[:80]!r}: {path}: line {number + 1}"
                        )
                    yield f"{path.name}#{number}", url.strip(), caption
        except OSError as error:
            raise AnnotationError(f"expected a TSV, found {error.strerror or error}: {path}") from error
        except UnicodeDecodeError as error:
            raise AnnotationError(f"expected UTF-8, found {error}: {path}") from error
