"""A user's own data: CSV, JSONL or Parquet, one row per image and caption.

    path,caption,boxes,phrases
    dog.jpg,a dog beside a ball,"[[10,20,200,150],[220,130,40,40]]","[""a dog"",""a ball""]"

| column | |
|---|---|
| `path` or `url` | a file under the source's image roots, or an http(s) address; the same one in several rows is one image. With both, the file is read and the address tells what it is known as |
| `caption` | the text |
| `boxes` | optional: list of [x, y, w, h] in pixels from the top left corner, as COCO writes them |
| `phrases` | optional: for each box the words of the caption that it belongs to, or their [start, stop] in characters; without it every box belongs to the whole caption. Words that occur more than once need [start, stop] |
| `width`, `height` | optional: pixels of the image; needed with boxes of a `url`, else read from the file |
| `licence` | optional: of this image |
| `coco_id`, `flickr_id`, `vg_id` | optional: what the image is known as elsewhere, so that evaluation images are recognised |

In CSV, `boxes` and `phrases` are JSON. Other columns are ignored.
"""  # noqa: E501 (a table)

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from bitgen.record import Box, Phrase
from pipeline.annotations.boxes import RowError, fraction_box
from pipeline.annotations.fields import Row
from pipeline.annotations.gathering import Gathering, check_text, has_utf8
from pipeline.annotations.ids import coco_id_of_name, ids_of_url
from pipeline.annotations.links import check_url
from pipeline.annotations.places import Places, Run
from pipeline.annotations.table_files import TABLE_FILES, TableFile
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate, url_hash

_IDS = {"coco_id": "coco", "flickr_id": "flickr", "vg_id": "vg"}
_ROWS = 20_000
"""Rows that are in memory at a time, unless one image has more."""
_Rows = list[tuple[str, Row]]
"""(label, row) of every row of one image."""


def read_table(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per image, in order of its first row. Raises `AnnotationError`."""
    for number, (image, rows) in enumerate(_images(source, folder)):
        yield _candidate(source, folder, f"row-{number:09d}", image, rows)


def table_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_table`'s candidates. Raises `AnnotationError`."""
    for image, rows in _images(source, folder):
        try:
            yield tuple(sorted(_known_as(image, rows)[0]))
        except RowError:
            yield ()


def _images(source: Source, folder: Path) -> Iterator[tuple[str, _Rows]]:
    """Every image, in order of its first row, with its rows."""
    files: list[TableFile] = []
    places = Places()
    for number, name in enumerate(source.annotations):
        kind = TABLE_FILES.get(Path(name).suffix.lower())
        if kind is None:
            found = f"found {Path(name).name}: source {source.name}"
            raise AnnotationError(f"expected a table of {', '.join(TABLE_FILES)}, {found}")
        files.append(kind(folder / name))
        for row_number, (start, stop, row) in enumerate(files[-1].rows(), 1):
            places.add(url_hash(_image(row)), number, row_number, start, stop)
    names = [Path(name).name for name in source.annotations]
    for some in _batches(runs for _, runs in places.by_first_row()):
        for rows in _fetch(files, names, some):
            images: dict[str, _Rows] = {}
            for label, row in rows:  # of one image, unless two have the same hash
                images.setdefault(_image(row), []).append((label, row))
            yield from images.items()


def _batches(images: Iterable[list[Run]]) -> Iterator[list[list[Run]]]:
    """Images together until they have `_ROWS` rows."""
    some: list[list[Run]] = []
    count = 0
    for runs in images:
        some.append(runs)
        count += sum(run.length for run in runs)
        if count >= _ROWS:
            yield some
            some, count = [], 0
    yield some


def _fetch(files: Sequence[TableFile], names: Sequence[str], images: Sequence[list[Run]]) -> Iterator[_Rows]:
    """The rows of each of `images`."""
    found = [
        file.fetch([(run.start, run.stop) for runs in images for run in runs if run.file == number])
        for number, file in enumerate(files)
    ]
    for runs in images:
        yield [
            (f"{names[run.file]}#{number}", row)
            for run in runs
            for number, row in enumerate(next(found[run.file]), run.first)
        ]


def _candidate(source: Source, folder: Path, key: str, image: str, rows: list[tuple[str, Row]]) -> Candidate:
    gathering = Gathering(source)
    roots, first = [folder / root for root in source.images], rows[0][1]
    width = height = 0
    try:
        ids, urls = _known_as(image, rows)
    except RowError as bad:
        for label, _ in rows:
            gathering.refuse(label, bad)
        return gathering.candidate(key, image, ())
    for label, row in rows:
        try:
            boxes = _list(row, "boxes", "bad_box")
            if boxes and not width:
                sized = (row for _, row in rows if _is_given(row, "width") and _is_given(row, "height"))
                width, height = _size(next(sized, first), roots, image)
            gathering.add(label, row.get("caption"), _phrases(row, boxes, width, height))
        except RowError as bad:
            gathering.refuse(label, bad)
    licence = str(first["licence"]) if _is_given(first, "licence") else ""
    return gathering.candidate(key, image, ids, width, height, licence, urls[0] if urls else "")


def _known_as(image: str, rows: _Rows) -> tuple[set[str], list[str]]:
    """The ids and the addresses of an image. Raises `RowError` for what is neither a path nor a URL, and for bad ids."""
    is_url = "://" in image
    check_url(image) if is_url else _check_path(image)
    urls = [url for _, row in rows if (url := _text(row, "url")).startswith(("http://", "https://"))]
    if is_url:
        urls = list(dict.fromkeys([image, *urls]))
    ids = {f"{kind}:{_whole(row, c)}" for _, row in rows for c, kind in _IDS.items() if _is_given(row, c)}
    ids |= {id for url in urls for id in ids_of_url(url)}
    if not is_url and (coco := coco_id_of_name(PurePosixPath(image).name)) is not None:
        ids.add(f"coco:{coco}")
    return ids, urls


def _phrases(row: Row, boxes: list[Any], width: int, height: int) -> tuple[Phrase, ...]:
    """The row's phrases; boxes of one span become one phrase. Raises `RowError`."""
    words = _list(row, "phrases", "bad_span")
    if not boxes and not words:
        return ()
    caption = check_text(row.get("caption"))
    if words and len(words) != len(boxes):
        raise RowError("bad_span", f"expected a phrase for each of {len(boxes)} boxes, found {len(words)}")
    spans: dict[tuple[int, int], list[Box]] = {}
    for i, bbox in enumerate(boxes):
        if not isinstance(bbox, list):
            raise RowError("bad_box", f"expected x y w h, found {bbox!r}")
        box = fraction_box(bbox, width, height)
        spans.setdefault(_span(words[i], caption) if words else (0, len(caption)), []).append(box)
    return tuple(Phrase(*span, tuple(dict.fromkeys(found))) for span, found in sorted(spans.items()))


def _span(words: Any, caption: str) -> tuple[int, int]:
    if isinstance(words, str) and words:
        if caption.count(words) != 1:
            raise RowError("bad_span", f"expected {words!r} once in the caption, found it {caption.count(words)} times")
        return caption.index(words), caption.index(words) + len(words)
    if isinstance(words, list) and len(words) == 2 and all(type(n) is int for n in words):
        start, stop = words
        if 0 <= start < stop <= len(caption):
            return start, stop
    raise RowError("bad_span", f"expected words or [start, stop] within {len(caption)} characters, found {words!r}")


def _list(row: Row, column: str, reason: str) -> list[Any]:
    found = row.get(column)
    if isinstance(found, str) and found.strip():
        try:
            found = json.loads(found)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RowError(reason, f"expected {column} as a JSON list, found {found[:80]!r}: {error}") from error
    if not _is_given(row, column) or found == "":
        return []
    if not isinstance(found, list):
        raise RowError(reason, f"expected {column} as a list, found {found!r:.80}")
    return found


def _size(row: Row, roots: Sequence[Path], image: str) -> tuple[int, int]:
    """Width and height in pixels, as the row says, else as the image file's header does. Raises `RowError`."""
    if _is_given(row, "width") and _is_given(row, "height"):
        return _whole(row, "width"), _whole(row, "height")
    if "://" in image:
        raise RowError("no_size", "expected width and height beside the boxes of a url, found none")
    path = _find(roots, image)
    try:
        with Image.open(path) as opened:
            return opened.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RowError("decode_error", f"expected an image, found {error}") from error


def _find(roots: Sequence[Path], image: str) -> Path:
    """The image's file. Raises `RowError` as `no_image`, also of a name that no file system has."""
    for path in (root / image for root in roots):
        if os.path.isfile(path):  # Path's own raises for a name of more than 255 bytes
            return path
    raise RowError("no_image", f"expected an image under the source's image roots, found none: {image[:200]!a}")


def _is_given(row: Row, column: str) -> bool:
    """A cell that holds something: pandas writes what is missing as NaN."""
    found = row.get(column)
    return found is not None and found != "" and found == found


def _whole(row: Row, column: str) -> int:
    try:
        number = float(row[column])
        if number.is_integer() and number >= 1:
            return int(number)
    except (TypeError, ValueError):
        pass
    raise RowError("bad_number", f"expected {column} as a whole number above 0, found {row[column]!r}")


def _image(row: Row) -> str:
    return _text(row, "path") or _text(row, "url")


def _text(row: Row, column: str) -> str:
    return str(row[column]).strip() if _is_given(row, column) else ""


def _check_path(path: str) -> None:
    if not has_utf8(path):
        raise RowError("bad_text", f"expected a path with a UTF-8 form, found lone surrogates: {path[:200]!a}")
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise RowError("bad_path", f"expected a path within the image roots, or a url, found {path[:200]!r}")
