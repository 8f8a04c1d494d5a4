"""Where the rows of each image lie in annotation files that do not fit into memory: numbers alone, then read again."""

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pipeline.annotations.fields import Row
from pipeline.rows import AnnotationError

_BLOCK = 4096
"""Images whose places become Python numbers at a time."""


class Run(NamedTuple):
    """Neighbouring rows of one image in one file."""

    file: int
    """Which of the source's annotation files."""
    first: int
    """Number of the first row, as the caller counts."""
    start: int
    """Bytes [start, stop), or whatever else finds the rows again; what separates them lies within."""
    stop: int
    length: int
    """Rows."""


class Places:
    """Rows by image, while the files go past: 38 bytes for every run of rows."""

    def __init__(self) -> None:
        self.images, self._files, self._firsts = array("q"), array("H"), array("q")
        self._starts, self._stops, self._counts = array("q"), array("q"), array("I")
        self._next = (0, 0, -1)

    def add(self, image: int, file: int, number: int, start: int, stop: int) -> None:
        """A row of `image`, an id of 64 bits."""
        row = (image, file, number)
        self._next, is_neighbour = (image, file, number + 1), row == self._next
        if is_neighbour:
            self._stops[-1] = stop
            self._counts[-1] += 1
            return
        self.images.append(image)
        self._files.append(file)
        self._firsts.append(number)
        self._starts.append(start)
        self._stops.append(stop)
        self._counts.append(1)

    def by_image(self) -> "Groups":
        """Images in ascending order; the rows of each as they were added. Ends the adding."""
        return self._grouped(np.array(self.images, dtype=np.int64))

    def by_first_row(self) -> "Groups":
        """Images in the order in which they first came, and called 0, 1, ...; otherwise as `by_image`."""
        _, first, image = np.unique(np.array(self.images, dtype=np.int64), return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return self._grouped(rank[image])

    def by_rank(self, rank: Sequence[int]) -> "Groups":
        """Image i comes, and is called, as `rank[i]` says; otherwise as `by_image`."""
        return self._grouped(np.array(rank, dtype=np.int64)[np.array(self.images, dtype=np.int64)])

    def _grouped(self, images: np.ndarray) -> "Groups":
        order = np.argsort(images, kind="stable")
        columns: list[np.ndarray] = []
        for name in ("_files", "_firsts", "_starts", "_stops", "_counts"):
            column = getattr(self, name)
            columns.append(np.frombuffer(column, dtype=column.typecode)[order] if column else np.empty(0, np.int64))
            setattr(self, name, array(column.typecode))  # one column at a time is there twice
        self.images = array("q")
        return Groups(images[order], columns)


class Groups:
    """The runs of every image, in order of image."""

    def __init__(self, images: np.ndarray, columns: Sequence[np.ndarray]) -> None:
        self._all, self._columns = images, columns

    @property
    def images(self) -> np.ndarray:
        """[N] int64, ascending, each once."""
        return self._all[np.flatnonzero(np.diff(self._all, prepend=self._all[:1] - 1))]

    def __iter__(self) -> Iterator[tuple[int, list[Run]]]:
        images = self.images
        yield from zip(map(int, images), self.find(images), strict=True)

    def find(self, images: np.ndarray) -> Iterator[list[Run]]:
        """The runs of each of `images`, which may be in any order; none of one that is not there."""
        for at in range(0, len(images), _BLOCK):
            some = images[at : at + _BLOCK]
            lows, highs = (np.searchsorted(self._all, some, side) for side in ("left", "right"))
            ends = np.cumsum(highs - lows)
            rows = np.arange(ends[-1]) + np.repeat(highs - ends, highs - lows)
            runs = list(map(Run, *(column[rows].tolist() for column in self._columns)))
            yield from (runs[start:stop] for start, stop in pairwise((0, *ends.tolist())))


class Files:
    """A source's annotation files, open for reading runs again; a context manager."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stack = ExitStack()
        self._open = []

    def __enter__(self) -> "Files":
        try:
            self._open = [self._stack.enter_context(path.open("rb", buffering=0)).fileno() for path in self._paths]
        except OSError as error:
            self._stack.close()
            raise AnnotationError(f"expected annotation files, found {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def text(self, run: Run) -> str:
        """What is written there."""
        return self._bytes(run).decode("utf-8", "surrogatepass")

    def rows(self, run: Run) -> list[Any]:
        """The elements of a JSON list that are there. Raises `AnnotationError` where the file is another by now."""
        found = b"[%b]" % self._bytes(run)
        try:
            return msgspec.json.decode(found)  # in a third of json's time, and not NaN, infinity or half a character
        except (msgspec.MsgspecError, UnicodeError):
            pass
        try:
            return json.loads(found.decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise AnnotationError(
                f"expected a file that nobody changes, found {error}: {self._paths[run.file]}"
            ) from error

    def _bytes(self, run: Run) -> bytes:
        return os.pread(self._open[run.file], run.stop - run.start, run.start)

    def row(self, runs: Sequence[Run]) -> Row | None:
        """The last of an image's rows, None where there is none."""
        return self.rows(runs[-1])[-1] if runs else None
