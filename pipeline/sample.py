"""The embedded sample: real COCO photographs under CC BY and CC BY-SA, in COCO's own layout, with grounded sentences.

    python -m pipeline.sample --coco FOLDER --out manifests/sample

FOLDER is a COCO folder (`train2017/`, `val2017/`, `annotations/`) or a part of one. What is written, byte-equal every
time: the photographs as COCO distributes them, `annotations/captions_*.json` and `instances_*.json` cut to them,
`annotations/grounded_{train,val}.json` in MDETR's schema with generated sentences (`pipeline/sentences.py`),
`CREDITS.csv`, and beside the folder its manifest `sample.toml`.

Training photographs are those of train2017 that no evaluation list blocks; those of val2017 are for evaluation only.
"""

import argparse
import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.annotations.ids import ids_of_url
from pipeline.files import replacing
from pipeline.holdout import SHIPPED, read_ids
from pipeline.sentences import Sentence, Thing, write_sentences

LICENCES = {
    4: ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
    5: ("CC BY-SA 2.0", "https://creativecommons.org/licenses/by-sa/2.0/"),
}
"""COCO's licence ids under which a photograph may be passed on and changed."""
TRAIN_PHOTOS = 43
VAL_PHOTOS = 30
VAL_PHOTO_BYTES = 240_000
"""Larger photographs of val2017 are left out, to keep the whole folder under 12 MB."""


class SampleError(ValueError):
    """The COCO folder lacks what the sample needs."""


@dataclass(frozen=True)
class Photo:
    """One COCO photograph with its official rows."""

    image: dict[str, Any]
    captions: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    sentences: list[Sentence]
    path: Path


def read_photos(coco: Path, split: str) -> tuple[list[Photo], dict[str, dict[str, Any]]]:
    """Photographs of `split` (`train2017`, `val2017`) that are here and free, in order of id; and both documents."""
    documents: dict[str, dict[str, Any]] = {}
    images: dict[int, dict[str, Any]] = {}
    for kind in ("instances", "captions"):
        path = coco / "annotations" / f"{kind}_{split}.json"
        if not path.is_file():
            raise SampleError(f"expected COCO's annotations, found no such file: {path}")
        documents[kind] = json.loads(path.read_text(encoding="utf-8"))
        images |= {image["id"]: image for image in documents[kind]["images"]}
    names = {category["id"]: category["name"] for category in documents["instances"]["categories"]}
    photos = []
    for id, image in sorted(images.items()):
        path = coco / split / image["file_name"]
        if image["license"] not in LICENCES or not path.is_file():
            continue
        instances = [_without_outline(row) for row in _rows_of(documents["instances"], id)]
        things = [_thing(row, names[row["category_id"]]) for row in instances]
        sentences = write_sentences(things, image["width"], image["height"])
        photos.append(Photo(image, _rows_of(documents["captions"], id), instances, sentences, path))
    return photos, documents


def choose_val(photos: list[Photo], count: int) -> list[Photo]:
    """`count` photographs with captions and boxes, spread evenly over the number of boxes, in order of id."""
    good = [p for p in photos if p.captions and p.sentences and p.path.stat().st_size <= VAL_PHOTO_BYTES]
    good.sort(key=lambda p: (len(p.instances), p.image["id"]))
    if len(good) < count:
        raise SampleError(f"expected {count} photographs with captions and boxes, found {len(good)}")
    chosen = [good[i * len(good) // count] for i in range(count)]
    return sorted(chosen, key=lambda p: p.image["id"])


def grounded_json(photos: list[Photo], categories: list[dict[str, Any]]) -> dict[str, Any]:
    """The sentences in MDETR's schema: one `images` row per sentence, boxes x y w h in pixels, spans in characters."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        rows = {row["id"]: row for row in photo.instances}
        for sentence in photo.sentences:
            images.append(
                {
                    "id": len(images),
                    "original_id": str(photo.image["id"]),
                    "file_name": photo.image["file_name"],
                    "height": photo.image["height"],
                    "width": photo.image["width"],
                    "caption": sentence.text,
                    "dataset_name": "mixed",
                    "data_source": "coco",
                    "tokens_negative": [[0, len(sentence.text)]],
                }
            )
            annotations += [
                {
                    "id": len(annotations) + i,
                    "image_id": images[-1]["id"],
                    "category_id": rows[id]["category_id"],
                    "bbox": rows[id]["bbox"],
                    "area": rows[id]["area"],
                    "iscrowd": 0,
                    "tokens_positive": [[start, stop]],
                }
                for i, (start, stop, id) in enumerate((a, b, id) for a, b, ids in sentence.phrases for id in ids)
            ]
    info = {"description": "sentences generated by pipeline/sentences.py from COCO 2017 instances"}
    return {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def write_sample(coco: Path, out: Path, blocked: frozenset[str]) -> int:
    """Write the folder `out` and its manifest beside it; returns the bytes of all files.

    Args:
        blocked: ids of evaluation images, as `coco:391895`. None of them is written to train2017.
    """
    files: dict[str, bytes] = {}
    credits: list[Photo] = []
    for split, short in (("train2017", "train"), ("val2017", "val")):
        photos, documents = read_photos(coco, split)
        photos = choose_val(photos, VAL_PHOTOS) if short == "val" else _train_photos(photos, blocked)
        captioned = [photo for photo in photos if photo.captions]
        files |= {f"{split}/{photo.image['file_name']}": photo.path.read_bytes() for photo in photos}
        files |= {
            f"annotations/captions_{split}.json": _json_bytes(
                documents["captions"]
                | {
                    "images": [p.image for p in captioned],
                    "annotations": [row for p in captioned for row in p.captions],
                }
            ),
            f"annotations/instances_{split}.json": _json_bytes(
                documents["instances"]
                | {"images": [p.image for p in photos], "annotations": [row for p in photos for row in p.instances]}
            ),
            f"annotations/grounded_{short}.json": _json_bytes(
                grounded_json(photos, documents["instances"]["categories"])
            ),
        }
        credits += photos
    files["CREDITS.csv"] = _credits(credits)
    for name, content in files.items():
        _write(out / name, content)
    _write(out.with_suffix(".toml"), _manifest(out.name, files).encode("utf-8"))
    return sum(len(content) for content in files.values())


def _train_photos(photos: list[Photo], blocked: frozenset[str]) -> list[Photo]:
    return [photo for photo in photos if f"coco:{photo.image['id']}" not in blocked and photo.sentences][:TRAIN_PHOTOS]


def _rows_of(document: dict[str, Any], image_id: int) -> list[dict[str, Any]]:
    return sorted((row for row in document["annotations"] if row["image_id"] == image_id), key=lambda row: row["id"])


def _without_outline(row: dict[str, Any]) -> dict[str, Any]:
    """An instance with its box but without its polygon, which is most of the bytes and read by nobody."""
    return {key: value for key, value in row.items() if key != "segmentation"}


def _thing(row: dict[str, Any], name: str) -> Thing:
    x, y, w, h = (float(value) for value in row["bbox"])
    return Thing(row["id"], name, (x, y, w, h), bool(row["iscrowd"]))


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _json_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")


def _credits(photos: list[Photo]) -> bytes:
    """CREDITS.csv: what a CC licence asks for. The page names the author and the title; we do not have them."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["file", "photo_page", "author", "licence", "licence_url", "changes"])
    for photo in photos:
        licence, licence_url = LICENCES[photo.image["license"]]
        ids = ids_of_url(photo.image["flickr_url"])
        if not ids:
            raise SampleError(f"expected a Flickr image url, found {photo.image['flickr_url']!r}: {photo.path.name}")
        page = f"https://www.flickr.com/photo.gne?id={ids[0].removeprefix('flickr:')}"
        file = f"{photo.path.parent.name}/{photo.image['file_name']}"
        table.writerow([file, page, "see the photo page", licence, licence_url, "none (file as distributed by COCO)"])
    return buffer.getvalue().encode("utf-8")


_MANIFEST_HEAD = """\
# The embedded sample: COCO photographs under CC BY 2.0 and CC BY-SA 2.0 (sample/CREDITS.csv), COCO's annotations
# (CC BY 4.0). The sentences of grounded_*.json are generated from the annotated boxes, not written by people.
# Written by `python -m pipeline.sample`; edit that, not this.
name = "sample"
licence = "CC BY 2.0 and CC BY-SA 2.0 photographs, see CREDITS.csv"
"""


def _manifest(folder: str, files: dict[str, bytes]) -> str:
    """sample.toml: the sources, then every file with its size and checksum."""
    tables = [_MANIFEST_HEAD]
    for split, role, year in (("train", "train", "train2017"), ("val", "eval", "val2017")):
        for name, phase, reader, file in (
            ("sample", "coarse", "coco", f"captions_{year}"),
            ("sample-grounded", "fine", "mdetr", f"grounded_{split}"),
        ):
            tables.append(
                f'[[source]]\nname = "{name}"\nphase = "{phase}"\nrole = "{role}"\nsplit = "{split}"\n'
                f'reader = "{reader}"\nannotations = ["annotations/{file}.json"]\nimages = ["{year}"]\n'
                "refusal_ceiling = 0.0\n"
            )
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        tables.append(
            f'[[file]]\npath = "{name}"\nurls = ["{folder}/{name}"]\nbytes = {len(content)}\nsha256 = "{digest}"\n'
        )
    return "\n".join(tables)


def main() -> None:
    """Arguments in, the sample out."""
    parser = argparse.ArgumentParser(description="write the embedded sample from a COCO folder")
    parser.add_argument("--coco", type=Path, required=True, help="folder with train2017, val2017, annotations")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its manifest goes beside it")
    parser.add_argument("--holdout", type=Path, default=SHIPPED, help="lists of evaluation ids")
    arguments = parser.parse_args()
    blocked = frozenset(id for path in sorted(arguments.holdout.glob("*.txt")) for id in read_ids(path))
    if not blocked:
        parser.error(f"expected lists of evaluation images, found none: {arguments.holdout}")
    size_bytes = write_sample(arguments.coco, arguments.out, blocked)
    print(f"wrote {size_bytes / 1e6:.1f} MB: {arguments.out}")


if __name__ == "__main__":
    main()
