"""MDETR's grounding files: referring expressions, mixed, and Flickr30k Entities (`final_flickr_separateGT_*`).

COCO-like, but with one `images` row per caption; `annotations[].image_id` is that row's `id`, never a COCO id.
`bbox` is x y w h in pixels, `tokens_positive` a list of [start, stop) in characters of the caption, `height` and
`width` may be strings, `data_source` ("coco", "vg") is mixed's alone. Rows of one photograph become one `Sample`.

A caption is a row (`FILE#row id`); a box that cannot be used is refused under `FILE#row id/annotation id`, and takes
its caption with it where no other box is left. A caption that came without boxes is kept without phrases, except a
referring expression.
"""

import itertools
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitgen.record import Box, Phrase
from pipeline.annotations.boxes import RowError, fraction_box
from pipeline.annotations.documents import Document
from pipeline.annotations.fields import Row, find_image, value
from pipeline.annotations.gathering import Gathering
from pipeline.annotations.ids import coco_id_of_name, coco_names
from pipeline.annotations.places import Files, Groups, Places, Run
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_EXPRESSIONS = ("refcoco", "refcoco+", "refcocog")
_Identity = tuple[str, int, str]
"""(kind, number, file name) of a photograph, which sorts photographs."""


def read_mdetr(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per photograph: COCO's by id, then Visual Genome's, then Flickr's. Raises `AnnotationError`."""
    photos, rows, boxes = _go_through(source, folder)
    paths = [folder / name for name in source.annotations]
    with Files(paths) as files:
        for photo, runs in rows:
            yield _candidate(source, folder, photos[photo], _rows(files, paths, runs, boxes))


def mdetr_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_mdetr`'s candidates, without a look at boxes. Raises `AnnotationError`."""
    seen: set[_Identity] = set()
    for name in source.annotations:
        document = Document(folder / name, "images", "annotations")
        for key, _, _, row in document:
            if key == "images" and (identity := _identity(row, folder / name)) not in seen:
                seen.add(identity)
                yield _ids(identity)
            elif key == "annotations" and "images" in document.counts:
                break  # what is left is boxes, three quarters of the file


def _go_through(source: Source, folder: Path) -> tuple[list[_Identity], Groups, list[Groups]]:
    """The photographs in order; the places of each one's rows; by file, the places of each row's boxes."""
    photos: dict[_Identity, int] = {}
    rows, boxes = Places(), []
    for file, name in enumerate(source.annotations):
        path, ids, found = folder / name, array("q"), Places()
        document = Document(path, "images", "annotations")
        for number, (key, start, stop, row) in enumerate(document):
            if key == "images":
                ids.append(value(row, "id", int, f"{path}: image row {row.get('id')!r}"))
                rows.add(photos.setdefault(_identity(row, path), len(photos)), file, number, start, stop)
            elif key == "annotations":
                found.add(
                    value(row, "image_id", int, f"{path}: annotation {row.get('id')!r}"), file, number, start, stop
                )
        document.require("images", "annotations")
        boxes.append(found.by_image())
        _check_rows(np.array(ids, dtype=np.int64), boxes[-1].images, path)
    if {kind for kind, _, _ in photos} >= {"vg", "flickr"}:
        raise AnnotationError(f"expected photos of vg or of flickr in one source, found both: source {source.name}")
    ordered = sorted(photos)
    for (*one, name), (*other, same) in itertools.pairwise(ordered):
        if one == other:
            raise AnnotationError(f"expected one name of a photo, found {name} and {same}: source {source.name}")
    rank = [0] * len(photos)
    for place, identity in enumerate(ordered):
        rank[photos[identity]] = place
    return ordered, rows.by_rank(rank), boxes


def _check_rows(ids: np.ndarray, owners: np.ndarray, path: Path) -> None:
    """Every row of `images` has an id of its own, and every annotation one of those rows."""
    known, counts = np.unique(ids, return_counts=True)
    if len(known) < len(ids):
        raise AnnotationError(
            f"expected an id of its own for every images row, found {known[counts > 1][0]} again: {path}"
        )
    if len(unknown := np.setdiff1d(owners, known, assume_unique=True)):
        label = f"{path.name}#{unknown[0]}"
        raise AnnotationError(f"expected an images row for every annotation, found none for {label}: {path}")


def _rows(
    files: Files, paths: Sequence[Path], runs: Sequence[Run], boxes: Sequence[Groups]
) -> Iterator[tuple[str, Row, list[Row]]]:
    """(label, caption row, its annotations) of every row of one photograph."""
    for run in runs:
        path, rows = paths[run.file], files.rows(run)
        ids = [value(row, "id", int, path) for row in rows]
        places = boxes[run.file].find(np.array(ids, dtype=np.int64))
        for id, row, found in zip(ids, rows, places, strict=True):
            yield f"{path.name}#{id}", row, [box for each in found for box in files.rows(each)]


def _candidate(
    source: Source, folder: Path, identity: _Identity, rows: Iterable[tuple[str, Row, list[Row]]]
) -> Candidate:
    kind, number, file_name = identity
    gathering = Gathering(source)
    size: tuple[int, int] | None = None
    for label, row, boxes in rows:
        size = size or _size(row, label)
        try:
            gathering.add(label, row.get("caption"), _phrases(gathering, label, row, boxes))
        except RowError as bad:
            gathering.refuse(label, bad)
    width, height = size or (0, 0)
    names = coco_names(number) if kind == "coco" else (file_name,)
    key = f"coco-{number:012d}" if kind == "coco" else f"{kind}-{number}"
    return gathering.candidate(key, find_image(folder, source.images, names), _ids(identity), width, height)


def _ids(identity: _Identity) -> tuple[str, ...]:
    kind, number, _ = identity
    return (f"{kind}:{number}",)


def _phrases(gathering: Gathering, label: str, row: Row, annotations: list[Row]) -> tuple[Phrase, ...]:
    """The caption's phrases, in order; boxes of one span become one phrase. Refuses bad boxes one by one.

    Raises `RowError` where a referring expression has no box, or no box of any caption could be used.
    """
    width, height = _size(row, label)
    length = len(row["caption"]) if isinstance(row.get("caption"), str) else 0
    spans: dict[tuple[int, int], list[Box]] = defaultdict(list)
    last: RowError | None = None
    for annotation in annotations:
        try:
            box = fraction_box(_numbers(annotation.get("bbox")), width, height)
            for span in _spans(annotation.get("tokens_positive"), length):
                if box not in spans[span]:
                    spans[span].append(box)
        except RowError as bad:
            last = bad
            if len(annotations) > 1:
                gathering.refuse(f"{label}/{annotation.get('id')}", bad)
    if not spans and last is not None:
        raise last
    if not spans and row.get("dataset_name") in _EXPRESSIONS:
        raise RowError("no_box", "expected a box for a referring expression, found none")
    return tuple(Phrase(start, stop, tuple(found)) for (start, stop), found in sorted(spans.items()))


def _identity(row: Row, path: Path) -> _Identity:
    """(kind, number, file name) of the row's photograph, by dataset and data source, then by the file's name."""
    where = f"{path}: image row {row.get('id')!r}"
    file_name = value(row, "file_name", str, where).rpartition("/")[2]
    dataset, data_source = row.get("dataset_name", ""), row.get("data_source", "")
    from_name = coco_id_of_name(file_name)
    if dataset == "flickr":
        kind = "flickr"
    elif data_source in ("coco", "vg"):
        kind = data_source
    elif dataset in _EXPRESSIONS or from_name is not None:
        kind = "coco"
    elif data_source == "" and dataset == "mixed":
        kind = "vg"
    else:
        raise AnnotationError(
            f"expected a dataset_name of refcoco, refcoco+, refcocog, mixed or flickr, found {dataset!r}: {where}"
        )
    if kind == "coco":
        id = from_name if from_name is not None else value(row, "original_id", int, where)
        if "original_id" in row and value(row, "original_id", int, where) != id:
            raise AnnotationError(f"expected original_id {id} for {file_name}, found {row['original_id']!r}: {where}")
        return kind, id, f"{id:012d}.jpg"
    stem = file_name.rpartition(".")[0]
    if not re.fullmatch(r"n?[0-9]{1,18}", stem):
        raise AnnotationError(f"expected a file name of digits, as 2317.jpg, found {file_name!r}: {where}")
    if stem.startswith("n"):  # GQA's own photographs, beside those that it has from Visual Genome
        return "gqa", int(stem[1:]), file_name
    return kind, int(stem), file_name


def _size(row: Row, where: str) -> tuple[int, int]:
    return value(row, "width", int, where), value(row, "height", int, where)


def _numbers(found: Any) -> list[float]:
    if not isinstance(found, list):
        raise RowError("bad_box", f"expected x y w h, found {found!r}")
    return found


def _spans(found: Any, length: int) -> list[tuple[int, int]]:
    """The [start, stop) of `tokens_positive`. Raises `RowError` as `bad_span`."""
    good = isinstance(found, list) and found and all(isinstance(s, list) and len(s) == 2 for s in found)
    if not good or not all(isinstance(n, int) and not isinstance(n, bool) for span in found for n in span):
        raise RowError("bad_span", f"expected a list of [start, stop], found {found!r}")
    for start, stop in found:
        if not 0 <= start < stop <= length:
            raise RowError("bad_span", f"expected a span within {length} characters, found [{start}, {stop})")
    return [(start, stop) for start, stop in found]
