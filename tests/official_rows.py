"""Annotation files in the official schemas, and the rows of each by photograph, counted without the readers.

A photograph is (kind, id): ("coco", 42), ("vg", 2), ("flickr", 1000092795), ("gqa", 161313).
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.manifest import Source

Photo = tuple[str, int]
Size = tuple[int, int]
Rows = dict[str, list[str]]
"""Labels of rows as the ledger has them, by key of the photograph's sample."""
Listed = Sequence[tuple[str, int]]

DOG, BALL = [4, 6, 16, 20], [24, 16, 12, 10]
"""x y w h in pixels, on every photograph."""
CAPTIONS = ("a dog beside a ball", "A dog waits for somebody to throw.")


def captions(folder: str, photos: Mapping[int, Size], flickr: Mapping[int, int], first: int) -> dict[str, Any]:
    """COCO's: two captions a photograph, numbered from `first`."""
    images = [
        {"id": id, "file_name": f"{id:012d}.jpg", "width": width, "height": height, "license": 4}
        | {"coco_url": f"http://images.cocodataset.org/{folder}/{id:012d}.jpg", "date_captured": "2013-11-14 11:18:45"}
        | {"flickr_url": f"http://farm4.staticflickr.com/3153/{flickr[id]}_8f6b5d9be6_z.jpg"}
        for id, (width, height) in photos.items()
    ]
    pairs = [(id, caption) for id in photos for caption in CAPTIONS]
    rows = [{"id": first + n, "image_id": id, "caption": caption} for n, (id, caption) in enumerate(pairs)]
    licences = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    return {"info": {}, "licenses": licences, "images": images, "annotations": rows}


def karpathy(dataset: str, splits: Mapping[int, str]) -> dict[str, Any]:
    """Karpathy's splits of COCO or Flickr30k."""
    images = []
    for number, (id, split) in enumerate(splits.items()):
        name = f"COCO_val2014_{id:012d}.jpg" if dataset == "coco" else f"{id}.jpg"
        own = {"cocoid": id, "filepath": "val2014"} if dataset == "coco" else {}
        sentences = [
            {"raw": raw, "tokens": raw.lower().split(), "imgid": number, "sentid": 2 * number + n}
            for n, raw in enumerate(CAPTIONS)
        ]
        images.append({"filename": name, "imgid": number, "split": split, "sentences": sentences} | own)
    return {"dataset": dataset, "images": images}


def image_data(id: int, size: Size, coco_id: int | None, flickr_id: int | None) -> dict[str, Any]:
    """Visual Genome's: an image."""
    url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{id}.jpg"
    return {"image_id": id, "url": url, "width": size[0], "height": size[1], "coco_id": coco_id, "flickr_id": flickr_id}


def regions(id: int) -> dict[str, Any]:
    """Visual Genome's: what is said of parts of an image."""
    found = [
        {"region_id": 100 * id + n, "image_id": id, "phrase": phrase, "x": x, "y": y, "width": w, "height": h}
        for n, (phrase, (x, y, w, h)) in enumerate((("a dog", DOG), ("A red ball.", BALL)))
    ]
    return {"id": id, "regions": found}


def objects(id: int) -> dict[str, Any]:
    """Visual Genome's: what is on an image."""
    found = [
        {"object_id": 1000 * id + n, "names": [name], "synsets": [f"{name}.n.01"], "merged_object_ids": []}
        | dict(zip("xywh", box, strict=True))
        for n, (name, box) in enumerate((("dog", DOG), ("ball", BALL)))
    ]
    return {"image_id": id, "objects": found, "image_url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{id}.jpg"}


def mdetr(dataset: str, photos: Mapping[Photo, Size]) -> dict[str, Any]:
    """MDETR's: a sentence with two phrases on each photograph; of referring expressions each is a row of its own."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    parts = ((CAPTIONS[0], (((0, 5), DOG), ((13, 19), BALL))),)
    if dataset.startswith("refcoco"):
        parts = (("the dog", (((0, 7), DOG),)), ("ball on the right", (((0, 17), BALL),)))
    for photo, size in photos.items():
        for caption, phrases in parts:
            images.append(_mdetr_image(dataset, len(images), photo, size, caption))
            for span, (x, y, w, h) in phrases:
                box = {"image_id": images[-1]["id"], "bbox": [x, y, w, h], "tokens_positive": [list(span)]}
                boxes.append({"id": len(boxes), "category_id": 1, "iscrowd": 0, "area": w * h} | box)
    return {"info": {}, "licenses": [], "images": images, "annotations": boxes, "categories": []}


def _mdetr_image(dataset: str, id: int, photo: Photo, size: Size, caption: str) -> dict[str, Any]:
    kind, number = photo
    names = {"coco": f"COCO_train2014_{number:012d}.jpg", "gqa": f"n{number}.jpg"}
    row: dict[str, Any] = {"file_name": names.get(kind, f"{number}.jpg"), "id": id, "caption": caption}
    row |= {"width": size[0], "height": size[1], "dataset_name": dataset, "tokens_negative": [[0, len(caption)]]}
    if dataset == "flickr":
        sizes = {"width": f"{size[0]}", "height": f"{size[1]}"}
        return (
            row | sizes | {"original_img_id": number, "sentence_id": 0, "tokens_positive_eval": [[[0, 5]], [[13, 19]]]}
        )
    if dataset == "mixed":
        return row | {"original_id": f"{number}", "data_source": "coco" if kind == "coco" else "vg"}
    return row | {"original_id": number}


def rows_of(source: Source, documents: Mapping[str, Any]) -> Rows:
    """Every row of the source's annotation files, by photograph."""
    paths = [os.path.normpath(f"{source.manifest}/{name}") for name in source.annotations]
    found: Rows = defaultdict(list)
    for path in paths:
        for key, row in _LISTED[source.reader](documents[path]):
            found[key].append(f"{os.path.basename(path)}#{row}")
    for path in paths:
        if (chosen := _chosen(source, documents[path])) is not None:
            found = {key: rows for key, rows in found.items() if key in chosen}
    return found


def _chosen(source: Source, document: Any) -> set[str] | None:
    """Keys of the photographs that are the source's, where a file tells: Karpathy's, or a list of Entities'."""
    if source.reader == "flickr30k" and isinstance(document, list):
        return {f"flickr-{line}" for line in document}
    split = source.options.get("karpathy_splits", source.options.get("splits"))
    if split is None or "dataset" not in document:
        return None
    return {_karpathy_key(image) for image in document["images"] if image["split"] == split}


def _karpathy_key(image: Mapping[str, Any]) -> str:
    return f"coco-{image['cocoid']:012d}" if "cocoid" in image else f"flickr-{image['filename'].removesuffix('.jpg')}"


def _of_coco(document: Any) -> Listed:
    return [(f"coco-{row['image_id']:012d}", row["id"]) for row in document.get("annotations", [])]


def _of_flickr30k(document: Any) -> Listed:
    images = document["images"] if isinstance(document, dict) else []
    return [(_karpathy_key(image), sentence["sentid"]) for image in images for sentence in image["sentences"]]


def _of_genome(document: Any) -> Listed:
    found = [(f"vg-{row['id']}", part["region_id"]) for row in document for part in row.get("regions", [])]
    return found + [(f"vg-{row['image_id']}", part["object_id"]) for row in document for part in row.get("objects", [])]


def _of_mdetr(document: Any) -> Listed:
    found = []
    for row in document["images"]:
        stem = row["file_name"].removesuffix(".jpg")
        kind = "gqa" if stem.startswith("n") else "flickr" if row["dataset_name"] == "flickr" else "vg"
        is_coco = stem.startswith("COCO_train2014_")
        found.append((f"coco-{stem[-12:]}" if is_coco else f"{kind}-{stem.removeprefix('n')}", row["id"]))
    return found


def _of_sbu(document: Any) -> Listed:
    urls = document["image_urls"]
    return [(f"sbu-{urls.index(url):09d}", number) for number, url in enumerate(urls)]


def _of_cc3m(document: Any) -> Listed:
    urls = [line.split("\t")[1] for line in document]
    return [(f"cc3m-{urls.index(url):09d}", number) for number, url in enumerate(urls)]


_LISTED: Mapping[str, Callable[[Any], Listed]] = {
    "cc3m": _of_cc3m,
    "coco": _of_coco,
    "flickr30k": _of_flickr30k,
    "mdetr": _of_mdetr,
    "sbu": _of_sbu,
    "visual_genome": _of_genome,
}
"""By reader: (key of the photograph, the row's own id) of all rows of one annotation file."""
