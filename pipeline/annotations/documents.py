"""Annotation files read with every surprise turned into an `AnnotationError` that says where."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.rows import AnnotationError

_PIECE_BYTES = 4 << 20
_ELEMENT_BYTES = 64 << 20
"""No element of a list is larger: Visual Genome's largest image has under 1 MB of rows."""
Row = Mapping[str, Any]
Value = TypeVar("Value", str, int, float, list)


def read_json(path: Path) -> Any:
    """The document at `path`. Raises `AnnotationError` when it is missing, not JSON, or cut short."""
    try:
        with path.open("rb") as file:
            return json.load(file)
    except OSError as error:
        raise AnnotationError(f"expected an annotation file, found {error.strerror or error}: {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"expected whole JSON, found {error}: {path}") from error


def table(document: Any, key: str, path: Path) -> list[Row]:
    """The list of objects under `key` of a document, or the document itself where `key` is empty."""
    rows = document.get(key) if key and isinstance(document, dict) else None if key else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        what = f"a list of objects under {key!r}" if key else "a list of objects"
        found = f"an object with {', '.join(sorted(document)[:8])}" if isinstance(document, dict) else type(document)
        raise AnnotationError(f"expected {what}, found {found}: {path}")
    return rows


def value(row: Row, name: str, kind: type[Value], where: str) -> Value:
    """`row[name]`, of type `kind`. An int is good for a float, digits in a string for an int (MDETR writes both)."""
    found = row.get(name)
    if kind is int and isinstance(found, str) and found.strip().isdecimal():
        found = int(found)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise AnnotationError(f"expected {name} of type {kind.__name__}, found {found!r}: {where}")
    return found


def lines(path: Path) -> Sequence[str]:
    """The lines of a text file, without their ends; blank ones left in so that numbers agree with an editor's."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise AnnotationError(f"expected a text file, found {error.strerror or error}: {path}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"expected UTF-8, found {error}: {path}") from error


def find_image(folder: Path, roots: Sequence[str], names: Sequence[str]) -> str:
    """The first of `names` that lies under one of the image roots; the first name when none does."""
    for name in names if len(names) > 1 else ():
        if any((folder / root / name).is_file() for root in roots):
            return name
    return names[0]


def elements(path: Path) -> Iterator[tuple[int, int, Row]]:
    """(first byte, end byte, object) of every element of a file that is one JSON list of objects.

    The file is read in pieces, so its size does not matter. Strings come as Latin-1, which only keeps bytes and
    characters in step: use the numbers, then read the element again with `element`. Raises `AnnotationError`.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open("r", encoding="latin-1", newline="") as file:
            text, base = file.read(_PIECE_BYTES), 0
            at = _skip(text, 3 if text.startswith("\u00ef\u00bb\u00bf") else 0, "")
            if text[at : at + 1] != "[":
                raise AnnotationError(f"expected a list of objects, found {text[at : at + 20]!r}: {path}")
            at += 1
            while True:
                at = _skip(text, at, ",")
                try:
                    if text[at] == "]":
                        return
                    row, end = decoder.raw_decode(text, at)
                except (json.JSONDecodeError, IndexError) as error:
                    piece = file.read(_PIECE_BYTES)
                    if not piece or len(text) - at > _ELEMENT_BYTES:
                        raise AnnotationError(
                            f"expected whole JSON, found {error} at byte {base + at}: {path}"
                        ) from error
                    text, base, at = text[at:] + piece, base + at, 0
                    continue
                except RecursionError as error:
                    raise AnnotationError(
                        f"expected JSON of few levels, {error} at byte {base + at}: {path}"
                    ) from error
                if not isinstance(row, dict):
                    raise AnnotationError(f"expected objects, found {row!r:.40} at byte {base + at}: {path}")
                yield base + at, base + end, row
                at = end
    except OSError as error:
        raise AnnotationError(f"expected an annotation file, found {error.strerror or error}: {path}") from error


def element(file: BinaryIO, start: int, stop: int) -> Row:
    """The object at bytes [start, stop) of a file that `elements` has been through."""
    file.seek(start)
    return json.loads(file.read(stop - start))


def _skip(text: str, at: int, also: str) -> int:
    """The next character that is neither white space nor one of `also`."""
    while at < len(text) and (text[at] in " \t\r\n" or text[at] in also):
        at += 1
    return at
