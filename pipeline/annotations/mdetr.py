"""MDETR's grounding files: referring expressions, mixed, and Flickr30k Entities (`final_flickr_separateGT_*`).

COCO-like, but with one `images` row per caption; `annotations[].image_id` is that row's `id`, never a COCO id.
`bbox` is x y w h in pixels, `tokens_positive` a list of [start, stop) in characters of the caption, `height` and
`width` may be strings, `data_source` ("coco", "vg") is mixed's alone. Rows of one photograph become one `Sample`.

A caption is a row (`FILE#row id`); a box that cannot be used is refused under `FILE#row id/annotation id`, and takes
its caption with it where no other box is left. A caption that came without boxes is kept without phrases, except a
referring expression.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitgen.record import Box, Phrase
from pipeline.annotations.boxes import RowError, fraction_box
from pipeline.annotations.documents import Row, find_image, read_json, table, value
from pipeline.annotations.gathering import Gathering
from pipeline.annotations.ids import coco_id_of_name, coco_names
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_EXPRESSIONS = ("refcoco", "refcoco+", "refcocog")


_Identity = tuple[str, int, str]
"""(kind, number, file name) of a photograph, which sorts photographs."""
_Rows = list[tuple[str, Row]]
"""The caption rows of one photograph, each with its label `FILE#row id`."""


def read_mdetr(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per photograph: COCO's by id, then Visual Genome's, then Flickr's. Raises `AnnotationError`."""
    photos: dict[_Identity, _Rows] = defaultdict(list)
    boxes: dict[str, list[Row]] = defaultdict(list)
    for name in source.annotations:
        path = folder / name
        document = read_json(path)
        for row in table(document, "images", path):
            where = f"{path}: image row {row.get('id')!r}"
            label = f"{path.name}#{value(row, 'id', int, where)}"
            photos[_identity(row, where)].append((label, row))
        for row in table(document, "annotations", path):
            where = f"{path}: annotation {row.get('id')!r}"
            boxes[f"{path.name}#{value(row, 'image_id', int, where)}"].append(row)
        known = {label for rows in photos.values() for label, _ in rows}
        for label in boxes.keys() - known:
            raise AnnotationError(f"expected an images row for every annotation, found none for {label}: {path}")
    if {kind for kind, _, _ in photos} >= {"vg", "flickr"}:
        raise AnnotationError(f"expected photos of vg or of flickr in one source, found both: source {source.name}")
    for identity in sorted(photos):
        yield _candidate(source, folder, identity, photos[identity], boxes)


def _candidate(
    source: Source, folder: Path, identity: _Identity, rows: _Rows, boxes: dict[str, list[Row]]
) -> Candidate:
    kind, number, file_name = identity
    gathering = Gathering(source)
    width, height = _size(rows[0][1], rows[0][0])
    for label, row in rows:
        try:
            gathering.add(label, row.get("caption"), _phrases(gathering, label, row, boxes.get(label, [])))
        except RowError as bad:
            gathering.refuse(label, bad)
    names = coco_names(number) if kind == "coco" else (file_name,)
    key = f"coco-{number:012d}" if kind == "coco" else f"{kind}-{number}"
    return gathering.candidate(key, find_image(folder, source.images, names), (f"{kind}:{number}",), width, height)


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


def _identity(row: Row, where: str) -> _Identity:
    """(kind, number, file name) of the row's photograph, by dataset and data source, then by the file's name."""
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
    if not re.fullmatch(r"n?[0-9]+", stem):
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
