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

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitgen.record import Box, Phrase
from bitgen.tokens import shared_tokenizer
from pipeline.annotations.boxes import RowError, fraction_box
from pipeline.annotations.documents import Row, element, elements, read_json, table, value
from pipeline.annotations.gathering import Gathering, check_text
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_MAX_TOKENS = 64
"""Of a sentence with both its end-of-texts, unless `options.max_tokens` says otherwise."""
_OVERLAP = 0.5
_SEPARATOR = ". "


@dataclass
class _Group:
    """Rows of equal words."""

    words: str
    boxes: list[Box] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)


def read_visual_genome(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per image with regions or objects, in order of its id. Raises `AnnotationError`."""
    images, others = _image_data(source, folder)
    places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, path in enumerate(others):
        for start, stop, row in elements(path):
            places[_image_id(row, path)].append((number, start, stop))
    max_tokens = int(source.options.get("max_tokens", _MAX_TOKENS))
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in others]
        for id in sorted(places):
            gathering = Gathering(source)
            for number, start, stop in places[id]:
                row = element(files[number], start, stop)
                _gather(gathering, row, images.get(id), others[number], max_tokens)
            yield _candidate(gathering, id, images.get(id))


def _candidate(gathering: Gathering, id: int, image: Row | None) -> Candidate:
    ids = [f"vg:{id}"]
    if image is None:
        return gathering.candidate(f"vg-{id}", f"{id}.jpg", ids)
    # Unknown ids are null, 0 or -1.
    ids += [f"{kind}:{n}" for kind in ("coco", "flickr") if (n := _known_id(image, f"{kind}_id", id)) > 0]
    width, height = (value(image, side, int, f"image_data: image {id}") for side in ("width", "height"))
    return gathering.candidate(f"vg-{id}", f"{id}.jpg", ids, width, height, url=str(image.get("url", "")))


def _gather(gathering: Gathering, row: Row, image: Row | None, path: Path, max_tokens: int) -> None:
    """Add one image's regions or objects."""
    kind = "regions" if "regions" in row else "objects"
    groups: dict[str, _Group] = {}
    for part in table(row, kind, path):
        label = f"{path.name}#{value(part, f'{kind[:-1]}_id', int, str(path))}"
        try:
            if image is None:
                raise RowError("unknown_image", f"expected image {_image_id(row, path)} in image_data, found none")
            words = " ".join(check_text(_words(part, kind)).split()).rstrip(". ")
            sides = ("x", "y", "width", "height") if kind == "regions" else ("x", "y", "w", "h")
            bbox = [_number(part.get(side), side) for side in sides]
            box = fraction_box(bbox, value(image, "width", int, label), value(image, "height", int, label))
            group = groups.setdefault(check_text(words).casefold(), _Group(words))
        except RowError as bad:
            gathering.refuse(label, bad)
            continue
        group.rows.append(label)
        if box not in group.boxes:
            group.boxes.append(box)
    for text, phrases, rows in join_phrases(list(groups.values()), max_tokens):
        gathering.add_joined(rows, text, phrases)


def join_phrases(groups: list[_Group], max_tokens: int) -> list[tuple[str, tuple[Phrase, ...], tuple[str, ...]]]:
    """Sentences of at most `max_tokens` tokens, first fit: (text, phrases, rows).

    Two groups of which any boxes overlap by more than half are never in one sentence. A group that is too long by
    itself has a sentence of its own.
    """
    conflicts = _conflicts(groups)
    sentences: list[list[int]] = []
    lengths: list[int] = []
    for i, group in enumerate(groups):
        length = shared_tokenizer().count(_SEPARATOR + group.words) - 2
        for s, members in enumerate(sentences):
            if lengths[s] + length + 2 <= max_tokens and not conflicts[i, members].any():
                members.append(i)
                lengths[s] += length
                break
        else:
            sentences.append([i])
            lengths.append(length)
    return [_join([groups[i] for i in members]) for members in sentences]


def _join(groups: list[_Group]) -> tuple[str, tuple[Phrase, ...], tuple[str, ...]]:
    phrases: list[Phrase] = []
    start = 0
    for group in groups:
        phrases.append(Phrase(start, start + len(group.words), tuple(group.boxes)))
        start += len(group.words) + len(_SEPARATOR)
    text = _SEPARATOR.join(group.words for group in groups)
    return text, tuple(phrases), tuple(row for group in groups for row in group.rows)


def _conflicts(groups: list[_Group]) -> np.ndarray:
    """[G, G] bool: any box of one overlaps any box of the other by more than `_OVERLAP` (intersection over union)."""
    owner = np.repeat(np.arange(len(groups)), [len(g.boxes) for g in groups])
    corners = np.array([(b.x0, b.y0, b.x1, b.y1) for g in groups for b in g.boxes]).reshape(-1, 4)
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    a, b = np.nonzero(shared / (area[:, None] + area[None, :] - shared) > _OVERLAP)
    conflicts = np.zeros((len(groups), len(groups)), dtype=bool)
    conflicts[owner[a], owner[b]] = True
    return conflicts


def _image_data(source: Source, folder: Path) -> tuple[dict[int, Row], list[Path]]:
    """image_data.json's rows by image id, and the paths of the other annotation files."""
    paths = [folder / name for name in source.annotations]
    data = [path for path in paths if path.name.startswith("image_data")]
    if len(data) != 1:
        raise AnnotationError(f"expected image_data.json among the annotations, found {source.annotations}")
    rows = table(read_json(data[0]), "", data[0])
    return {value(row, "image_id", int, str(data[0])): row for row in rows}, [p for p in paths if p != data[0]]


def _image_id(row: Row, path: Path) -> int:
    if "regions" not in row and "objects" not in row:
        raise AnnotationError(f"expected rows with regions or objects, found {', '.join(sorted(row)[:8])}: {path}")
    return value(row, "image_id" if "image_id" in row else "id", int, str(path))


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
