"""Visual Genome: region descriptions joined into sentences, and objects as grounded phrases.

    image_data.json:           [{image_id,url,width,height,coco_id,flickr_id}]
    region_descriptions.json:  [{id, regions: [{region_id,image_id,phrase,x,y,width,height}]}]
    objects.json:              [{image_id, objects: [{object_id,x,y,w,h,names}]}]

A source names `image_data.json`, without which an image's ids and so the hold-out rule are unknown, and one or both of
the others. An image has some 50 regions; MDETR's way makes a few texts of them: "a clock. a man in a hat", each phrase
with its boxes. Regions of equal words become one phrase with several boxes; phrases whose boxes overlap by more than
half never share a sentence, since the words of one would be wrong for the other's place.
Source: arXiv 2104.12763, section 3.1 and appendix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from bitgen.record import Box, Phrase
from bitgen.tokens import shared_tokenizer
from pipeline.annotations.boxes import RowError, fraction_box
from pipeline.annotations.documents import elements
from pipeline.annotations.fields import Row, table, value
from pipeline.annotations.gathering import Gathering, check_text
from pipeline.annotations.places import Files, Places
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_MAX_TOKENS = 64
"""Of a sentence with both its end-of-texts, unless `options.max_tokens` says otherwise."""
_OVERLAP = 0.5
_SEPARATOR = ". "
_BLOCK = 256
"""Boxes that are compared with all of an image's at a time."""


@dataclass
class Group:
    """Rows of equal words."""

    words: str
    boxes: list[Box] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)


def read_visual_genome(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per image with regions or objects, in order of its id. Raises `AnnotationError`."""
    paths, data = [folder / name for name in source.annotations], _data_file(source)
    image_data, places = Places(), Places()
    for file, path in enumerate(paths):
        for number, (start, stop, row) in enumerate(elements(path)):
            if file == data:
                image_data.add(value(row, "image_id", int, path), file, number, start, stop)
            else:
                places.add(_image_id(row, path), file, number, start, stop)
    images, groups = image_data.by_image(), places.by_image()
    max_tokens = int(source.options.get("max_tokens", _MAX_TOKENS))
    with Files(paths) as files:
        for (id, runs), known in zip(groups, images.find(groups.images), strict=True):
            gathering, image, parts = Gathering(source), files.row(known), [0] * len(paths)
            for run in runs:
                for row in files.rows(run):
                    parts[run.file] += _gather(gathering, row, id, image, paths[run.file], parts[run.file], max_tokens)
            yield _candidate(gathering, id, image)


def visual_genome_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of every image in image_data.json, with regions or without. Raises `AnnotationError`."""
    path = folder / source.annotations[_data_file(source)]
    yield from (_ids(value(row, "image_id", int, path), row) for _, _, row in elements(path))


def _candidate(gathering: Gathering, id: int, image: Row | None) -> Candidate:
    key, name = f"vg-{id}", f"{id}.jpg"
    if image is None:
        return gathering.candidate(key, name, (f"vg:{id}",))
    return gathering.candidate(key, name, _ids(id, image), *_size(image, id), url=str(image.get("url", "")))


def _gather(gathering: Gathering, row: Row, id: int, image: Row | None, path: Path, first: int, max_tokens: int) -> int:
    """Add the regions or objects of one element of a file, and tell how many; `first` of the image went before."""
    kind = "regions" if "regions" in row else "objects"
    sides = ("x", "y", "width", "height") if kind == "regions" else ("x", "y", "w", "h")
    width, height = _size(image, id) if image else (0, 0)
    groups: dict[str, Group] = {}
    parts = table(row, kind, path)
    for place, part in enumerate(parts, first):
        label = f"{path.name}#image {id}/{kind[:-1]} {place}"
        try:
            label = f"{path.name}#{_part_id(part, f'{kind[:-1]}_id')}"
            if image is None:
                raise RowError("unknown_image", f"expected image {id} in image_data, found none")
            words = " ".join(check_text(_words(part, kind)).split()).rstrip(". ")
            box = fraction_box([_number(part.get(side), side) for side in sides], width, height)
            group = groups.setdefault(check_text(words).casefold(), Group(words))
        except RowError as bad:
            gathering.refuse(label, bad)
            continue
        group.rows.append(label)
        if box not in group.boxes:
            group.boxes.append(box)
    for text, phrases, rows in join_phrases(list(groups.values()), max_tokens):
        gathering.add_joined(rows, text, phrases)
    return len(parts)


def join_phrases(groups: Sequence[Group], max_tokens: int) -> list[tuple[str, tuple[Phrase, ...], tuple[str, ...]]]:
    """Sentences of at most `max_tokens` tokens, first fit: (text, phrases, rows).

    Two groups of which any boxes overlap by more than half are never in one sentence. A group that is too long by
    itself has a sentence of its own.
    """
    sentences: list[list[Group]] = []
    members: list[int] = []  # of each sentence: a bit per group
    lengths: list[int] = []
    for i, (group, conflicts) in enumerate(zip(groups, _conflicts(groups), strict=True)):
        length = _tokens(group.words)
        for s, sentence in enumerate(sentences):
            if lengths[s] + length + 2 <= max_tokens and not conflicts & members[s]:
                sentence.append(group)
                members[s] |= 1 << i
                lengths[s] += length
                break
        else:
            sentences.append([group])
            members.append(1 << i)
            lengths.append(length)
    return [_join(sentence) for sentence in sentences]


@lru_cache(maxsize=1 << 16)  # 10 us each, and the same few words come again and again
def _tokens(words: str) -> int:
    return shared_tokenizer().count(_SEPARATOR + words) - 2


def _join(groups: Sequence[Group]) -> tuple[str, tuple[Phrase, ...], tuple[str, ...]]:
    phrases: list[Phrase] = []
    start = 0
    for group in groups:
        phrases.append(Phrase(start, start + len(group.words), tuple(group.boxes)))
        start += len(group.words) + len(_SEPARATOR)
    text = _SEPARATOR.join(group.words for group in groups)
    return text, tuple(phrases), tuple(row for group in groups for row in group.rows)


def _conflicts(groups: Sequence[Group]) -> list[int]:
    """Of each group, a bit per group: any of their boxes overlap by more than `_OVERLAP` (intersection over union)."""
    corners = np.array([(b.x0, b.y0, b.x1, b.y1) for g in groups for b in g.boxes]).reshape(-1, 4)
    owner = np.repeat(np.arange(len(groups)), [len(g.boxes) for g in groups])
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    conflicts = [0] * len(groups)
    for at in range(0, len(corners), _BLOCK):
        some = slice(at, at + _BLOCK)
        low = np.maximum(corners[some, None, :2], corners[None, :, :2])
        high = np.minimum(corners[some, None, 2:], corners[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(-1)
        a, b = np.nonzero(shared / (area[some, None] + area[None, :] - shared) > _OVERLAP)
        for one, other in zip(owner[a + at].tolist(), owner[b].tolist(), strict=True):
            conflicts[one] |= 1 << other
    return conflicts


def _data_file(source: Source) -> int:
    """Which of the source's annotation files is image_data.json."""
    data = [file for file, name in enumerate(source.annotations) if Path(name).name.startswith("image_data")]
    if len(data) != 1:
        raise AnnotationError(f"expected image_data.json among the annotations, found {source.annotations}")
    return data[0]


def _ids(id: int, image: Row) -> tuple[str, ...]:
    # Unknown ids are null, 0 or -1.
    known = (f"{kind}:{n}" for kind in ("coco", "flickr") if (n := _known_id(image, f"{kind}_id", id)) > 0)
    return tuple(sorted((f"vg:{id}", *known)))


def _size(image: Row, id: int) -> tuple[int, int]:
    where = f"image_data: image {id}"
    return value(image, "width", int, where), value(image, "height", int, where)


def _image_id(row: Row, path: Path) -> int:
    if "regions" not in row and "objects" not in row:
        raise AnnotationError(f"expected rows with regions or objects, found {', '.join(sorted(row)[:8])}: {path}")
    return value(row, "image_id" if "image_id" in row else "id", int, str(path))


def _part_id(part: Row, name: str) -> int:
    try:
        return value(part, name, int, "")
    except AnnotationError as error:
        raise RowError("bad_id", f"expected {name} as a whole number, found {part.get(name)!r:.80}") from error


def _known_id(image: Row, name: str, id: int) -> int:
    found = image.get(name)
    if found in (None, "", -1, "-1"):
        return 0
    return int(found) if isinstance(found, float) and found.is_integer() else value(image, name, int, f"image {id}")


def _number(found: object, side: str) -> float:
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise RowError("bad_box", f"expected {side} as a number, found {found!r}")
    return found


def _words(part: Row, kind: str) -> object:
    if kind == "regions":
        return part.get("phrase")
    names = part.get("names")
    return names[0] if isinstance(names, list) and names else None
