"""Annotation files read with every surprise turned into an `AnnotationError` that says where.

They are gigabytes, so nothing here holds a whole one: a file goes past in pieces, one element at a time, and each comes
with the bytes at which it stands, so that a reader may keep numbers only and read the element again (`places.py`).
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.annotations.fields import Row
from pipeline.rows import AnnotationError

_PIECE_BYTES = 4 << 20
_ELEMENT_BYTES = 64 << 20
"""No element of a list is larger: Visual Genome's largest image has under 1 MB of rows."""
_BOM = "\u00ef\u00bb\u00bf"

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # raw_decode is this, and slower
_space = re.compile(r"[ \t\r\n]*").match


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without their ends; blank ones left in so that numbers agree with an editor's."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.removesuffix("\n") for line in file)
    except OSError as error:
        raise AnnotationError(f"expected a text file, found {error.strerror or error}: {path}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"expected UTF-8, found {error}: {path}") from error


def elements(path: Path) -> Iterator[tuple[int, int, Row]]:
    """(first byte, end byte, object) of every element of a file that is one JSON list of objects.

    Raises `AnnotationError`.
    """
    with _errors(path), path.open("rb") as file:
        text = _Window(file, path)
        if text.peek() != "[":
            raise AnnotationError(f"expected a list of objects, found {text.excerpt()}: {path}")
        for start, stop, row in text.elements():
            if not isinstance(row, dict):
                raise AnnotationError(f"expected objects, found {row!r:.40} at byte {start}: {path}")
            yield start, stop, row
        text.close()


def strings(path: Path, start: int) -> Iterator[Any]:
    """Every element, whatever it is, of the list at byte `start`, which `Document.starts` has told."""
    with _errors(path), path.open("rb") as file:
        for _, _, found in _Window(file, path, start).elements():
            yield found


class Document:
    """A file that is one JSON object with long lists, gone through once, in the order in which it is written.

    Iterating gives (key, first byte, end byte, value): every element, an object, of the lists that are asked for, and
    every other member that is a string, a number, true, false or null. Raises `AnnotationError` for what is no JSON, for
    a key that is there twice, and for what stands under an asked key and is no list of objects.
    """

    def __init__(self, path: Path, *lists: str, expected: str = "") -> None:
        """`expected`: what to say of a file that is no object; else that it lacks the first of `lists`."""
        self.path = path
        self.starts: dict[str, int] = {}
        """First byte of each member's value, by key, of the members gone through so far."""
        self.counts: dict[str, int] = {}
        """Elements of each list gone through so far, asked for or not."""
        self._lists = lists
        self._expected = expected or f"a list of objects under {lists[0]!r}"

    def __iter__(self) -> Iterator[tuple[str, int, int, Any]]:
        self.starts.clear()
        self.counts.clear()
        path = self.path
        with _errors(path), path.open("rb") as file:
            text = _Window(file, path)
            if text.peek() != "{":
                raise AnnotationError(f"expected {self._expected}, found {text.excerpt()}: {path}")
            for key in text.members():
                mark = text.peek()
                if key in self.starts:
                    raise AnnotationError(f"expected {key!r} once, found it again at byte {text.byte}: {path}")
                self.starts[key] = text.byte
                if key in self._lists and mark != "[":
                    found = text.excerpt()
                    raise AnnotationError(f"expected a list of objects under {key!r}, found {found}: {path}")
                if mark == "[":
                    yield from self._elements(key, text)
                elif mark == "{":
                    text.skip()
                else:
                    found = text.value()
                    yield key, self.starts[key], text.byte, found
            text.close()

    def require(self, *keys: str) -> None:
        """Once all has been gone through: raises `AnnotationError` naming the first of `keys` that was not there."""
        for key in keys:
            if key not in self.starts:
                found = f"an object with {', '.join(sorted(self.starts)[:8])}"
                raise AnnotationError(f"expected a list of objects under {key!r}, found {found}: {self.path}")

    def _elements(self, key: str, text: "_Window") -> Iterator[tuple[str, int, int, Any]]:
        number = 0
        if key in self._lists:
            for start, stop, row in text.elements():
                if not isinstance(row, dict):
                    raise AnnotationError(
                        f"expected a list of objects under {key!r}, found {row!r:.40} at byte {start}: {self.path}"
                    )
                yield key, start, stop, row
                number += 1
        else:
            number = sum(1 for _ in text.elements())
        self.counts[key] = number


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AnnotationError(f"expected an annotation file, found {error.strerror or error}: {path}") from error
    except RecursionError as error:
        raise AnnotationError(f"expected JSON of few levels, found {error}: {path}") from error


class _Window:
    """The piece of a JSON file that is in memory, and a place in it.

    The text is held as Latin-1, in which bytes and characters are in step; what has other letters than ASCII's is parsed
    again as UTF-8.
    """

    def __init__(self, file: BinaryIO, path: Path, start: int = 0) -> None:
        file.seek(start)
        self._file, self._path = file, path
        self._text, self._base, self._at = "", start, 0
        self._is_ascii = True
        if self._grow() and start == 0 and self._text.startswith(_BOM):
            self._at = len(_BOM)

    @property
    def byte(self) -> int:
        """Where in the file the place is."""
        return self._base + self._at

    def peek(self) -> str:
        """The next character that is no white space, and the place moves to it; "" at the end of the file."""
        while True:
            self._at = _space(self._text, self._at).end()  # type: ignore[union-attr] (it matches anywhere, if nothing)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def excerpt(self) -> str:
        """What stands at the place, for an error's message."""
        return f"{self._text[self._at : self._at + 20]!r}"

    def value(self) -> Any:
        """The value at the place, which moves to its end."""
        while True:
            text, at, message, wrong = self._text, self._at, "", self._at
            try:
                found, end = _scan(text, at)
                # Of a number, a part may pass for the whole where a piece ends: 1 of 1e+5.
                if len(text) - end >= 3 or isinstance(found, str | list | dict) or not self._grow():
                    if not self._is_ascii and not (raw := text[at:end]).isascii():
                        found = json.loads(raw.encode("latin-1").decode("utf-8", "surrogatepass"))
                    self._at += end - at
                    return found
                continue
            except StopIteration:
                message = "no value"
            except json.JSONDecodeError as error:
                message, wrong = error.msg, error.pos
            except UnicodeDecodeError as error:
                raise AnnotationError(f"expected UTF-8, found {error} after byte {self.byte}: {self._path}") from error
            except ValueError as error:  # an int of over 4300 digits
                message = str(error)
            if len(text) - at > _ELEMENT_BYTES or not self._grow():
                raise self._error(message, self._base + wrong)

    def elements(self) -> Iterator[tuple[int, int, Any]]:
        """(first byte, end byte, value) of every element of the list at the place, which moves past its end."""
        self._at += 1
        mark = self.peek()
        while mark != "]":
            yield from self._plain_objects()
            start = self._base + self._at
            found = self.value()
            yield start, self._base + self._at, found
            mark = self._separator("]")
        self._at += 1

    def _plain_objects(self) -> Iterator[tuple[int, int, Any]]:
        """Elements from the place on, as long as they are what most are, objects in ASCII that lie in memory with the
        start of the next, with nothing but json.dump's separator between; `value` and `_separator` do the others."""
        text, base, at = self._text, self._base, self._at
        while self._is_ascii and text.startswith("{", at):
            try:
                found, end = _scan(text, at)
            except (StopIteration, ValueError):
                return
            if not text.startswith(", {", end):
                return
            self._at = end + 2
            yield base + at, base + end, found
            at = end + 2

    def members(self) -> Iterator[str]:
        """Every key of the object at the place; the caller moves the place past each one's value."""
        self._at += 1
        mark = self.peek()
        while mark != "}":
            if mark != '"':
                raise self._error("no key", self.byte)
            key = self.value()
            if self.peek() != ":":
                raise self._error("no colon", self.byte)
            self._at += 1
            yield key
            mark = self._separator("}")
        self._at += 1

    def skip(self) -> None:
        """Move the place past its value, however large."""
        mark = self.peek()
        if mark == "[":
            for _ in self.elements():
                pass
        elif mark == "{":
            for _ in self.members():
                self.skip()
        else:
            self.value()

    def close(self) -> None:
        """Raises `AnnotationError` where something follows the place."""
        if self.peek():
            raise self._error("more after its end", self.byte)

    def _separator(self, closing: str) -> str:
        """Past a comma, the first character of what follows it; else `closing`, with the place at it."""
        text, at = self._text, self._at
        if text[at : at + 2] == ", " and at + 2 < len(text) and text[at + 2] > " ":  # what json.dump writes
            self._at = at + 2
            mark = text[at + 2]
        else:
            mark = self.peek()
            if mark == closing:
                return mark
            if mark != ",":
                raise self._error("no comma", self.byte)
            self._at += 1
            mark = self.peek()
        if mark == closing:
            raise self._error("no value", self.byte)
        return mark

    def _grow(self) -> bool:
        """Read on, and forget what lies before the place; False at the end of the file."""
        piece = self._file.read(_PIECE_BYTES).decode("latin-1")
        if not piece:
            return False
        self._text, self._base, self._at = self._text[self._at :] + piece, self._base + self._at, 0
        self._is_ascii = self._text.isascii()
        return True

    def _error(self, found: str, byte: int) -> AnnotationError:
        return AnnotationError(f"expected whole JSON, found {found} at byte {byte}: {self._path}")
