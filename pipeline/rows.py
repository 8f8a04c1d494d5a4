"""What a reader of annotations yields: one `Candidate` per image, with its rows and those it refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from bitgen.record import Sample
from pipeline.manifest import Source


class AnnotationError(ValueError):
    """An annotation file is wrong as a whole: missing, cut short, of another schema."""


@dataclass(frozen=True)
class Refusal:
    """One row that does not become part of a sample, and why."""

    row: str
    """Id of the row, unique within its source: `captions_train2017.json#123`."""
    reason: str
    """One word, as it is counted: `empty_text`, `bad_box`, `bad_span`."""
    detail: str = ""
    """What was found, for a person."""


@dataclass(frozen=True)
class Candidate:
    """One image of a source, before its bytes have been looked at.

    Every row of the source's annotation files is in `rows` or in `refused` of exactly one candidate.
    A candidate without texts carries refusals only.
    """

    sample: Sample
    """Good texts only. `width` and `height` as the annotation states them, else 0; `sha256` empty."""
    image: str
    """A path under one of the source's image roots, or the URL of a crawled image."""
    rows: tuple[str, ...]
    """Ids of the rows that `sample.texts` are made of."""
    refused: tuple[Refusal, ...] = ()


Reader = Callable[[Source, Path], Iterator[Candidate]]
"""(source, folder `raw/<manifest>`) -> one candidate per image, in ascending order of the image's id.

The order is the same at every call. Raises `AnnotationError`.
"""


def url_hash(url: str) -> int:
    """64 bits that stand for a URL where millions of them are held in memory."""
    return int.from_bytes(blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)
