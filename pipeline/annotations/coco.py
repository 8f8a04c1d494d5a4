"""COCO captions: `captions_*.json`, and Karpathy's `dataset_coco.json` for its splits.

    captions_train2017.json: images[].{id,file_name,width,height,license,flickr_url}
                             annotations[].{id,image_id,caption}
    dataset_coco.json:       images[].{cocoid,split,sentences[].{sentid,raw}}

A source names one or more captions files, Karpathy's file, or both. With Karpathy's, `options.karpathy_splits`
(such as "train restval") says which images are the source's; the texts are the captions files' where there are any,
else Karpathy's own `raw`. Rows of images outside the asked splits are another source's rows and not counted here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotations.boxes import RowError
from pipeline.annotations.documents import Document
from pipeline.annotations.fields import Row, find_image, table, value
from pipeline.annotations.gathering import Gathering
from pipeline.annotations.ids import coco_names, ids_of_url
from pipeline.annotations.places import Files, Places, Run
from pipeline.manifest import Source
from pipeline.rows import AnnotationError, Candidate

_KARPATHY_SPLITS = ("train", "restval", "val", "test")
_LISTS = ("licenses", "images", "annotations")


def read_coco(source: Source, folder: Path) -> Iterator[Candidate]:
    """One candidate per COCO photograph, in order of its id. Raises `AnnotationError`."""
    found = _Found(source, folder)
    with Files(found.paths) as files:
        runs = zip(found.images.find(found.chosen), found.texts.find(found.chosen), strict=True)
        for id, (images, captions) in zip(map(int, found.chosen), runs, strict=True):
            gathering, texts = Gathering(source), list(found.captions(files, captions))
            for row, text in texts:
                if found.lists_images and not images:
                    error = RowError("unknown_image", f"expected image {id} in the file, found none")
                    gathering.refuse(row, error)
                else:
                    gathering.add(row, text)
            if not texts:
                gathering.refuse(f"image/{id}", RowError("no_text", f"expected captions of image {id}, found none"))
            yield _candidate(gathering, source, folder, id, found.image(files, images))


def coco_ids(source: Source, folder: Path) -> Iterator[tuple[str, ...]]:
    """The ids of each of `read_coco`'s candidates. Raises `AnnotationError`."""
    found = _Found(source, folder)
    with Files(found.paths) as files:
        for id, images in zip(map(int, found.chosen), found.images.find(found.chosen), strict=True):
            yield _ids(id, found.image(files, images))


def _candidate(gathering: Gathering, source: Source, folder: Path, id: int, image: Row | None) -> Candidate:
    key, names, ids = f"coco-{id:012d}", coco_names(id), _ids(id, image)
    if image is None:
        return gathering.candidate(key, find_image(folder, source.images, names), ids)
    where = f"image {id}"
    names = tuple(dict.fromkeys((value(image, "file_name", str, where), *names)))
    return gathering.candidate(
        key,
        find_image(folder, source.images, names),
        ids,
        value(image, "width", int, where),
        value(image, "height", int, where),
        str(image.get("licence_name", "")),
        str(image.get("coco_url", "")),
    )


def _ids(id: int, image: Row | None) -> tuple[str, ...]:
    return tuple(sorted({f"coco:{id}", *(ids_of_url(str(image.get("flickr_url", ""))) if image else ())}))


class _Found:
    """Where everything lies in a source's files, after one pass through them. Raises `AnnotationError`."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.paths = [folder / name for name in source.annotations]
        self._source = source
        self._licences: list[dict[str, str]] = [{} for _ in self.paths]
        """By file: URL of each licence, by its id."""
        self._is_karpathys = [False] * len(self.paths)
        images, captions, karpathys = Places(), Places(), Places()
        for file in range(len(self.paths)):
            self._go_through(file, images, captions, karpathys)
        self.lists_images = len(images.images) > 0
        """Else Karpathy's file is alone, and no photograph has a row of its own."""
        self.images, own, theirs = images.by_image(), captions.by_image(), karpathys.by_image()
        """The last of an image's rows counts: two files may share it."""
        if any(self._is_karpathys):
            self.chosen, self.texts = theirs.images, own if self.lists_images else theirs
        else:
            self.chosen, self.texts = np.union1d(self.images.images, own.images), own

    def image(self, files: Files, runs: list[Run]) -> Row | None:
        """An image's row, its licence in words beside it."""
        row = files.row(runs)
        return row and {**row, "licence_name": self._licences[runs[-1].file].get(str(row.get("license")), "")}

    def captions(self, files: Files, runs: list[Run]) -> Iterator[tuple[str, Any]]:
        """(label, text) of every row of an image's texts."""
        for run in runs:
            name = self.paths[run.file].name
            for row in files.rows(run):
                if self._is_karpathys[run.file]:
                    yield from ((f"{name}#{value(s, 'sentid', int, name)}", s.get("raw")) for s in row["sentences"])
                else:
                    yield f"{name}#{value(row, 'id', int, name)}", row["caption"]

    def _go_through(self, file: int, images: Places, captions: Places, karpathys: Places) -> None:
        path = self.paths[file]
        document, dataset, splits = Document(path, *_LISTS), None, ()
        is_first = True
        for number, (key, start, stop, row) in enumerate(document):
            if key == "annotations":
                captions.add(_caption(row, path), file, number, start, stop)
            elif key == "images":
                if is_first:
                    is_first, self._is_karpathys[file] = False, "cocoid" in row or "sentences" in row
                    splits = _asked_splits(self._source) if self._is_karpathys[file] else ()
                if not self._is_karpathys[file]:
                    images.add(value(row, "id", int, path), file, number, start, stop)
                else:
                    id, split = _karpathy_image(row, path)
                    if split in splits:
                        karpathys.add(id, file, number, start, stop)
            elif key == "licenses":
                self._licences[file][str(row.get("id"))] = str(row.get("url", ""))
            elif key == "dataset":
                dataset = row
        is_karpathys = dataset == "coco" and "annotations" not in document.starts
        document.require(*(_LISTS[1:2] if is_karpathys else _LISTS))
        if self._is_karpathys[file] and not is_karpathys:
            raise AnnotationError(f"expected the dataset coco beside Karpathy's images, found {dataset!r:.80}: {path}")
        self._is_karpathys[file] = is_karpathys


def _caption(row: Row, path: Path) -> int:
    """The image of a row of `annotations`."""
    if "caption" not in row:
        raise AnnotationError(f"expected annotations with a caption, found {', '.join(sorted(row)[:8])}: {path}")
    id = value(row, "id", int, path)
    image = row.get("image_id")
    return image if type(image) is int else value(row, "image_id", int, f"{path}: annotation {id}")


def _karpathy_image(image: Row, path: Path) -> tuple[int, str]:
    """Id and split of one of Karpathy's images, whose sentences all have an id."""
    id = value(image, "cocoid", int, path)
    where = f"{path}: image {id}"
    split = value(image, "split", str, where)
    for sentence in table(image, "sentences", path):
        value(sentence, "sentid", int, where)
    return id, split


def _asked_splits(source: Source) -> tuple[str, ...]:
    splits = tuple(str(source.options.get("karpathy_splits", "")).split())
    if not splits or not set(splits) <= set(_KARPATHY_SPLITS):
        raise AnnotationError(
            f"expected options.karpathy_splits of {', '.join(_KARPATHY_SPLITS)}, found {splits}: source {source.name}"
        )
    return splits
