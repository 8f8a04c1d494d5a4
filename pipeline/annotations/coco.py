"""COCO captions: `captions_*.json`, and Karpathy's `dataset_coco.json` for its splits.

    captions_train2017.json: images[].{id,file_name,width,height,license,flickr_url}
                             annotations[].{id,image_id,caption}
    dataset_coco.json:       images[].{cocoid,split,sentences[].{sentid,raw}}

A source names one or more captions files, Karpathy's file, or both. With Karpathy's, `options.karpathy_splits`
(such as "train restval") says which images are the source's; the texts are the captions files' where there are any,
else Karpathy's own `raw`. Rows of images outside the asked splits are another source's rows and not counted here.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.annotations.boxes import RowError
from pipeline.annotations.documents import Row, find_image, read_json, table, value
from pipeline.annotations.gathering import Gathering
from pipeline.annotations.ids import coco_names, ids_of_url
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_KARPATHY_SPLITS = ("train", "restval", "val", "test")


def read_coco(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per COCO photograph, in order of its id. Raises `AnnotationError`."""
    images: dict[int, Row] = {}
    captions: dict[int, list[tuple[str, Any]]] = defaultdict(list)
    karpathy: dict[int, list[tuple[str, Any]]] | None = None
    for name in source.annotations:
        path = folder / name
        document = read_json(path)
        if isinstance(document, dict) and "annotations" not in document and document.get("dataset") == "coco":
            karpathy = _karpathy(document, path, _asked_splits(source))
        else:
            _captions(document, path, images, captions)
    if karpathy is not None:
        chosen = sorted(karpathy)
        texts = captions if images else karpathy
    else:
        chosen = sorted(images.keys() | captions.keys())
        texts = captions
    for id in chosen:
        yield _candidate(source, folder, id, images.get(id), texts.get(id, []), unknown=bool(images))


def _candidate(
    source: Source, folder: Path, id: int, image: Row | None, texts: list[tuple[str, Any]], unknown: bool
) -> Candidate:
    """`unknown`: an image without a row of its own is an error of the file, not Karpathy's way."""
    gathering = Gathering(source)
    for row, text in texts:
        if image is None and unknown:
            gathering.refuse(row, RowError("unknown_image", f"expected image {id} in the file, found none"))
        else:
            gathering.add(row, text)
    if not texts:
        gathering.refuse(f"image/{id}", RowError("no_text", f"expected captions of image {id}, found none"))
    key = f"coco-{id:012d}"
    names = coco_names(id)
    if image is None:
        return gathering.candidate(key, find_image(folder, source.images, names), (f"coco:{id}",))
    where = f"image {id}"
    names = tuple(dict.fromkeys((value(image, "file_name", str, where), *names)))
    return gathering.candidate(
        key,
        find_image(folder, source.images, names),
        (f"coco:{id}", *ids_of_url(str(image.get("flickr_url", "")))),
        value(image, "width", int, where),
        value(image, "height", int, where),
        str(image.get("licence_name", "")),
        str(image.get("coco_url", "")),
    )


def _captions(document: Any, path: Path, images: dict[int, Row], captions: dict[int, list[tuple[str, Any]]]) -> None:
    """Add what a captions file holds. An image that two files share keeps the later row, and all captions."""
    licences = {row.get("id"): str(row.get("url", "")) for row in table(document, "licenses", path)}
    for row in table(document, "images", path):
        id = value(row, "id", int, str(path))
        images[id] = dict(row) | {"licence_name": licences.get(row.get("license"), "")}
    for row in table(document, "annotations", path):
        if "caption" not in row:
            raise AnnotationError(f"expected annotations with a caption, found {', '.join(sorted(row)[:8])}: {path}")
        id = value(row, "id", int, str(path))
        captions[value(row, "image_id", int, f"{path}: annotation {id}")].append((f"{path.name}#{id}", row["caption"]))


def _karpathy(document: Any, path: Path, splits: tuple[str, ...]) -> dict[int, list[tuple[str, Any]]]:
    """(row, raw text) of every image in the asked splits, by COCO id."""
    found: dict[int, list[tuple[str, Any]]] = {}
    for image in table(document, "images", path):
        id = value(image, "cocoid", int, str(path))
        where = f"{path}: image {id}"
        if value(image, "split", str, where) in splits:
            sentences = table(image, "sentences", path)
            rows = [(f"{path.name}#{value(s, 'sentid', int, where)}", s.get("raw")) for s in sentences]
            found[id] = found.get(id, []) + rows  # an image may be listed twice
    return found


def _asked_splits(source: Source) -> tuple[str, ...]:
    splits = tuple(str(source.options.get("karpathy_splits", "")).split())
    if not splits or not set(splits) <= set(_KARPATHY_SPLITS):
        raise AnnotationError(
            f"expected options.karpathy_splits of {', '.join(_KARPATHY_SPLITS)}, found {splits}: source {source.name}"
        )
    return splits
