"""Flickr30k: captions, and the list of a split.

    results_20130124.token:      `1000092795.jpg#0<TAB>caption`
    dataset_flickr30k.json:      Karpathy's: images[].{filename,split,sentences[].{sentid,raw}}
    flickr_annotations_30k.csv:  the same splits: raw (a JSON list), filename, split
    train.txt, val.txt:          Flickr30k Entities': one photo id a line

A source names captions (any of the first three) and, for a part of them, a list: an Entities file, or one of the two
with splits together with `options.splits` (such as "train"). Where the `.token` file is named, the texts are its.
Photographs outside the asked part are another source's rows and not counted here.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.annotations.boxes import RowError
from pipeline.annotations.documents import Document, lines
from pipeline.annotations.fields import table, value
from pipeline.annotations.gathering import Gathering
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_NAME = re.compile(r"(\d+)\.jpg")
_TOKEN_LINE = re.compile(r"(\d+)\.jpg#(\d+)\t(.*)")
_SPLITS = ("train", "val", "test")
_Captions = dict[int, list[tuple[str, object]]]


def read_flickr30k(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per photograph, in order of its Flickr id. Raises `AnnotationError`."""
    chosen, texts = _chosen(source, folder)
    for id in chosen:
        gathering = Gathering(source)
        for row, text in texts.get(id, []):
            gathering.add(row, text)
        if not texts.get(id):
            gathering.refuse(f"image/{id}", RowError("no_text", f"expected captions of {id}.jpg, found none"))
        yield gathering.candidate(f"flickr-{id}", f"{id}.jpg", (f"flickr:{id}",))


def flickr30k_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_flickr30k`'s candidates. Raises `AnnotationError`."""
    yield from ((f"flickr:{id}",) for id in _chosen(source, folder)[0])


def _chosen(source: Source, folder: Path) -> tuple[list[int], _Captions]:
    """The photographs of a source, in order, and the rows of those and of others: 160,000 fit into 50 MB."""
    asked = str(source.options.get("splits", "")).split()
    if not set(asked) <= set(_SPLITS):
        raise AnnotationError(f"expected options.splits of train, val, test, found {asked}: source {source.name}")
    token: _Captions = {}
    split: _Captions = {}
    chosen: set[int] | None = None
    for name in source.annotations:
        path = folder / name
        if path.suffix == ".token":
            _extend(token, _token(path))
        elif path.suffix == ".txt":
            chosen = (chosen or set()) | _entities(path)
        elif path.suffix in (".json", ".csv"):
            _extend(split, _karpathy(path, asked) if path.suffix == ".json" else _table(path, asked))
        else:
            raise AnnotationError(f"expected .token, .json, .csv or .txt annotations, found {path.name}: {source.name}")
    return sorted(chosen if chosen is not None else split or token), token or split


def _extend(found: _Captions, more: _Captions) -> None:
    """Add `more`, also of a photograph that is listed twice."""
    for id, rows in more.items():
        found[id] = found.get(id, []) + rows


def _token(path: Path) -> _Captions:
    found: _Captions = defaultdict(list)
    for number, line in enumerate(lines(path), 1):
        match = _TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if match:
            found[int(match[1])].append((f"{path.name}#{match[1]}#{match[2]}", match[3]))
        elif line.strip():
            raise AnnotationError(f"expected 1000092795.jpg#0<TAB>caption, found {line[:80]!r}: {path}: line {number}")
    return found


def _entities(path: Path) -> set[int]:
    words = [(number, line.strip()) for number, line in enumerate(lines(path), 1) if line.strip()]
    for number, word in words:
        if not word.isdecimal():
            raise AnnotationError(f"expected a photo id, found {word[:80]!r}: {path}: line {number}")
    return {int(word) for _, word in words}


def _karpathy(path: Path, asked: list[str]) -> _Captions:
    found: _Captions = {}
    document = Document(path, "images")
    for key, _, _, image in document:
        if key != "images":
            continue
        id = _photo_id(value(image, "filename", str, str(path)), path)
        if not asked or value(image, "split", str, f"{path}: {id}") in asked:
            sentences = table(image, "sentences", path)
            rows: list[tuple[str, object]] = [
                (f"{path.name}#{value(s, 'sentid', int, f'{path}: {id}')}", s.get("raw")) for s in sentences
            ]
            _extend(found, {id: rows})
    document.require("images")
    return found


def _table(path: Path, asked: list[str]) -> _Captions:
    found: _Captions = {}
    reader = csv.DictReader(line + "\n" for line in lines(path))
    if not {"raw", "filename", "split"} <= set(reader.fieldnames or ()):
        raise AnnotationError(f"expected columns raw, filename, split, found {reader.fieldnames}: {path}")
    for row in reader:
        id = _photo_id(row["filename"], path)
        if asked and row["split"] not in asked:
            continue
        try:
            texts = json.loads(row["raw"])
        except (json.JSONDecodeError, TypeError, RecursionError) as error:
            raise AnnotationError(f"expected raw as a JSON list, found {error}: {path}: {id}.jpg") from error
        if not isinstance(texts, list):
            raise AnnotationError(f"expected raw as a JSON list, found {texts!r:.80}: {path}: {id}.jpg")
        first = len(found.get(id, []))
        _extend(found, {id: [(f"{path.name}#{id}#{number}", text) for number, text in enumerate(texts, first)]})
    return found


def _photo_id(name: str, path: Path) -> int:
    match = _NAME.fullmatch(name or "")
    if not match:
        raise AnnotationError(f"expected a name such as 1000092795.jpg, found {name!r}: {path}")
    return int(match[1])
