"""Conceptual Captions 3M: a TSV of `caption<TAB>url`, 3,318,333 rows to train on."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations.links import Link, link_candidates, link_ids
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate


def read_cc3m(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per URL, in file order; `image` is the URL. Raises `AnnotationError`."""
    return link_candidates(source, "cc3m", lambda: _links(source, folder))


def cc3m_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_cc3m`'s candidates. Raises `AnnotationError`."""
    return link_ids(lambda: _links(source, folder))


def _links(source: Source, folder: Path) -> Iterator[Link]:
    for name in source.annotations:
        path = folder / name
        label = f"{path.name}#"
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file):
                    caption, tab, url = line.partition("\t")
                    if not tab:
                        found = line.rstrip("\r\n")[:80]
                        raise AnnotationError(f"expected caption<TAB>url, found {found!r}: {path}: line {number + 1}")
                    yield f"{label}{number}", url.strip(), caption
        except OSError as error:
            raise AnnotationError(f"expected a TSV, found {error.strerror or error}: {path}") from error
        except UnicodeDecodeError as error:
            raise AnnotationError(f"expected UTF-8, found {error}: {path}") from error
