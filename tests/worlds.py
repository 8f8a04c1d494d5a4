"""Tiny datasets in every official format, written on the spot: three photographs of coloured rectangles each.

A writer takes a folder (`raw/<manifest>`), fills it, and returns the `Source` that reads it. Ids, sizes, words and boxes
are the constants here, so that a test can name what it expects. URL lists take the address of a local server.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from pipeline.manifest import Source

WIDTH, HEIGHT = 80, 60
"""Pixels of every photograph."""
COCO_IDS = (9, 25, 30)
FLICKR_IDS = (1000092795, 10002456, 1000268201)
"""Flickr's ids of the photographs of COCO and of Flickr30k: the two datasets share theirs here."""
VG_IDS = (2, 5, 61)
DOG = (8, 12, 24, 30)
"""x y w h in pixels of the dog on every photograph: in fractions 0.1 0.2 0.4 0.7."""
BALL = (48, 30, 16, 15)
"""Likewise of the ball: 0.6 0.5 0.8 0.75."""
CAPTIONS = ("a dog beside a ball", "A dog waits for somebody to throw.")
SENTENCE = "a dog beside a ball"
DOG_SPAN, BALL_SPAN = (0, 5), (13, 19)
"""Characters of "a dog" and "a ball" in SENTENCE."""


def source(reader: str, annotations: Sequence[str], images: Sequence[str], **fields: Any) -> Source:
    """A training source called "world", with whatever else `fields` say."""
    known: dict[str, Any] = {"name": "world", "phase": "coarse", "role": "train", "split": "train", "licence": "CC0"}
    return Source(
        reader=reader, annotations=tuple(annotations), images=tuple(images), manifest="world", **(known | fields)
    )


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB") -> bytes:
    """A picture of a "dog" and a "ball" whose colours depend on `seed`; JPEG, PNG or WebP by the name. Its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (40 + 50 * seed % 200, 90, 160))
    draw = ImageDraw.Draw(image)
    for shift, (x, y, w, h) in enumerate((DOG, BALL)):
        draw.rectangle(
            (x, y, x + w - 1, y + h - 1), fill=(230 - 37 * seed % 200, 60 + 90 * shift, 20 + 61 * seed % 200)
        )
    # A stripe for each bit of the seed, so that no two photographs look alike to a perceptual hash.
    for bit in range(8):
        if seed >> bit & 1:
            draw.rectangle((bit * 10, 0, bit * 10 + 5, 59), fill=(250, 250, 10 * bit))
    image.convert(mode).save(path, quality=92)
    return path.read_bytes()


def write_json(path: Path, document: object) -> Path:
    """`document` as JSON, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def coco(folder: Path) -> Source:
    """COCO 2017: train2017/, annotations/{captions,instances}_train2017.json; five rows of captions."""
    for seed, id in enumerate(COCO_IDS, 1):
        write_photo(folder / f"train2017/{id:012d}.jpg", seed)
    licences = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    images = [
        {
            "id": id,
            "file_name": f"{id:012d}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "license": 4,
            "coco_url": f"http://images.cocodataset.org/train2017/{id:012d}.jpg",
            "flickr_url": f"http://farm4.staticflickr.com/3153/{flickr}_8f6b5d9be6_z.jpg",
        }
        for id, flickr in zip(COCO_IDS, FLICKR_IDS, strict=True)
    ]
    pairs = [(id, caption) for id in COCO_IDS for caption in CAPTIONS][:5]
    captions = [{"id": 100 + i, "image_id": id, "caption": caption} for i, (id, caption) in enumerate(pairs)]
    things = [(id, category, box) for id in COCO_IDS for category, box in ((18, DOG), (37, BALL))]
    instances = [
        {
            "id": 7000 + i,
            "image_id": id,
            "category_id": c,
            "bbox": list(box),
            "area": 1.0 * box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (id, c, box) in enumerate(things)
    ]
    common = {"info": {}, "licenses": licences, "images": images}
    categories = [{"id": 18, "name": "dog"}, {"id": 37, "name": "sports ball"}]
    write_json(folder / "annotations/captions_train2017.json", common | {"annotations": captions})
    write_json(
        folder / "annotations/instances_train2017.json", common | {"annotations": instances, "categories": categories}
    )
    return source("coco", ["annotations/captions_train2017.json"], ["train2017"])


def karpathy(folder: Path) -> Source:
    """Karpathy's dataset_coco.json over the photographs of `coco`: 9 train, 25 restval, 30 test."""
    coco(folder)
    images = [
        {
            "cocoid": id,
            "filename": f"COCO_val2014_{id:012d}.jpg",
            "filepath": "val2014",
            "split": split,
            "sentences": [{"sentid": 10 * id + i, "imgid": 0, "raw": raw} for i, raw in enumerate(CAPTIONS)],
        }
        for id, split in zip(COCO_IDS, ("train", "restval", "test"), strict=True)
    ]
    write_json(folder / "dataset_coco.json", {"dataset": "coco", "images": images})
    return source("coco", ["dataset_coco.json"], ["train2017"], options={"karpathy_splits": "train restval"})


def sbu(folder: Path, address: str) -> Source:
    """SBU's JSON with three URLs under `address`, the first of them twice."""
    urls = [f"{address}/{id}_8f6b5d9be6.jpg" for id in FLICKR_IDS]
    rows = [(urls[0], CAPTIONS[0]), (urls[1], CAPTIONS[0]), (urls[0], CAPTIONS[1]), (urls[2], CAPTIONS[1])]
    document = {
        "image_urls": [url for url, _ in rows],
        "user_ids": [f"user{i}" for i in range(len(rows))],
        "captions": [caption for _, caption in rows],
    }
    write_json(folder / "sbu-captions-all.json", document)
    return source("sbu", ["sbu-captions-all.json"], ["crawl"], crawl=True, links=False)


def cc3m(folder: Path, address: str) -> Source:
    """CC3M's TSV with three URLs under `address`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{CAPTIONS[i % 2]}\t{address}/{i}.jpg\n" for i in range(3)]
    (folder / "GCC-training.tsv").write_text("".join(lines), encoding="utf-8")
    return source("cc3m", ["GCC-training.tsv"], ["crawl"], crawl=True, links=False)


def visual_genome(folder: Path) -> Source:
    """Visual Genome: image 2 is COCO's 9, 61 is in the second folder; two regions and two objects an image."""
    for seed, (id, part) in enumerate(zip(VG_IDS, ("VG_100K", "VG_100K", "VG_100K_2"), strict=True), 1):
        write_photo(folder / f"{part}/{id}.jpg", seed)
    data = [
        {"image_id": id, "url": f"https://cs.stanford.edu/people/rak248/VG_100K/{id}.jpg", "width": WIDTH}
        | {"height": HEIGHT, "coco_id": coco_id, "flickr_id": flickr_id}
        for id, coco_id, flickr_id in zip(VG_IDS, (9, None, -1), (None, FLICKR_IDS[1], None), strict=True)
    ]
    parts = [("dog", "a dog ", DOG), ("ball", "A red ball.", BALL)]
    regions = [
        {
            "id": id,
            "regions": [
                {"region_id": 100 * id + i, "image_id": id, "phrase": phrase}
                | dict(zip(("x", "y", "width", "height"), box, strict=True))
                for i, (_, phrase, box) in enumerate(parts)
            ],
        }
        for id in VG_IDS
    ]
    objects = [
        {
            "image_id": id,
            "objects": [
                {"object_id": 1000 * id + i, "names": [name], "synsets": []}
                | dict(zip(("x", "y", "w", "h"), box, strict=True))
                for i, (name, _, box) in enumerate(parts)
            ],
        }
        for id in reversed(VG_IDS)
    ]
    write_json(folder / "image_data.json", data)
    write_json(folder / "region_descriptions.json", regions)
    write_json(folder / "objects.json", objects)
    return source("visual_genome", ["image_data.json", "region_descriptions.json"], ["VG_100K", "VG_100K_2"])


def flickr30k(folder: Path) -> Source:
    """Flickr30k: captions, and both families of splits; the last photograph is test in both."""
    for seed, id in enumerate(FLICKR_IDS, 1):
        write_photo(folder / f"flickr30k-images/{id}.jpg", seed)
    lines = [f"{id}.jpg#{i}\t{caption}\n" for id in FLICKR_IDS for i, caption in enumerate(CAPTIONS)]
    (folder / "results_20130124.token").write_text("".join(lines), encoding="utf-8")
    (folder / "train.txt").write_text(f"{FLICKR_IDS[0]}\n{FLICKR_IDS[1]}\n", encoding="utf-8")
    (folder / "test.txt").write_text(f"{FLICKR_IDS[2]}\n", encoding="utf-8")
    splits = list(zip(FLICKR_IDS, ("train", "train", "test"), strict=True))
    images = [
        {"filename": f"{id}.jpg", "split": split, "imgid": i}
        | {"sentences": [{"sentid": 10 * i + k, "raw": raw} for k, raw in enumerate(CAPTIONS)]}
        for i, (id, split) in enumerate(splits)
    ]
    write_json(folder / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})
    with (folder / "flickr_annotations_30k.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["raw", "sentids", "split", "filename", "img_id"])
        rows.writerows([json.dumps(CAPTIONS), "[]", split, f"{id}.jpg", i] for i, (id, split) in enumerate(splits))
    return source("flickr30k", ["results_20130124.token", "train.txt"], ["flickr30k-images"], links=False)


def refexp(folder: Path) -> Source:
    """MDETR's RefCOCO: two expressions on COCO's 9, one on 25, in train2014's names over train2017's files."""
    coco(folder)
    expressions = [(9, "the dog", DOG), (9, "ball on the right", BALL), (25, "dog", DOG)]
    images = [
        {"id": i, "original_id": id, "file_name": f"COCO_train2014_{id:012d}.jpg", "height": HEIGHT, "width": WIDTH}
        | {"caption": words, "dataset_name": "refcoco", "tokens_negative": [[0, len(words)]]}
        for i, (id, words, _) in enumerate(expressions)
    ]
    annotations = [_grounding(50 + i, i, box, [[0, len(words)]]) for i, (_, words, box) in enumerate(expressions)]
    write_json(folder / "OpenSource/finetune_refcoco_train.json", _mdetr(images, annotations))
    return source("mdetr", ["OpenSource/finetune_refcoco_train.json"], ["train2014", "train2017"], phase="fine")


def mixed(folder: Path) -> Source:
    """MDETR's mixed: two sentences on COCO's 9 (ids are strings), one on Visual Genome's 5."""
    coco(folder)
    visual_genome(folder / "gqa")
    rows = [(0, "coco", "9", "COCO_train2014_000000000009.jpg"), (1, "vg", "5", "5.jpg")]
    rows.append((2, "coco", "9", "COCO_train2014_000000000009.jpg"))
    images = [
        {"id": i, "original_id": id, "file_name": name, "height": HEIGHT, "width": WIDTH, "data_source": data_source}
        | {"caption": SENTENCE if i < 2 else "two things", "dataset_name": "mixed", "tokens_negative": [[0, 1]]}
        for i, data_source, id, name in rows
    ]
    annotations = [
        _grounding(0, 0, DOG, [list(DOG_SPAN)]),
        _grounding(1, 0, BALL, [list(BALL_SPAN)]),
        _grounding(2, 1, DOG, [list(DOG_SPAN)]),
        _grounding(3, 2, DOG, [[0, 10]]),
        _grounding(4, 2, BALL, [[0, 10]]),
    ]
    write_json(folder / "OpenSource/final_mixed_train.json", _mdetr(images, annotations))
    return source("mdetr", ["OpenSource/final_mixed_train.json"], ["train2017", "gqa/VG_100K"], phase="fine")


def flickr_grounded(folder: Path) -> Source:
    """MDETR's Flickr30k Entities: sizes are strings; the second sentence came without a box."""
    flickr30k(folder)
    images = [
        {"id": i, "original_img_id": FLICKR_IDS[0], "sentence_id": i, "file_name": f"{FLICKR_IDS[0]}.jpg"}
        | {"height": str(HEIGHT), "width": str(WIDTH), "caption": caption, "dataset_name": "flickr"}
        | {
            "tokens_negative": [[0, len(caption)]],
            "tokens_positive_eval": [[list(DOG_SPAN)], [list(BALL_SPAN)]][: 2 - i],
        }
        for i, caption in enumerate(CAPTIONS)
    ]
    annotations = [_grounding(0, 0, DOG, [list(DOG_SPAN)]), _grounding(1, 0, BALL, [list(BALL_SPAN)])]
    write_json(folder / "OpenSource/final_flickr_separateGT_train.json", _mdetr(images, annotations))
    return source("mdetr", ["OpenSource/final_flickr_separateGT_train.json"], ["flickr30k-images"], phase="fine")


def table(folder: Path, suffix: str = ".csv") -> Source:
    """A user's table as `.csv`, `.jsonl` or `.parquet`: one photograph with boxes and two captions, one without."""
    write_photo(folder / "pictures/dog.jpg", 1)
    write_photo(folder / "pictures/more/two.png", 2)
    rows: list[dict[str, Any]] = [
        {"path": "dog.jpg", "caption": SENTENCE, "boxes": [list(DOG), list(BALL)], "phrases": ["a dog", "a ball"]},
        {"path": "more/two.png", "caption": CAPTIONS[1], "boxes": [], "phrases": []},
        {"path": "dog.jpg", "caption": CAPTIONS[1], "boxes": [], "phrases": []},
    ]
    path = folder / f"mine{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {key: json.dumps(row[key]) for key in ("boxes", "phrases")} for row in rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return source("table", [path.name], ["pictures"])


def _grounding(id: int, image_id: int, box: Sequence[int], spans: list[list[int]]) -> dict[str, Any]:
    """One row of MDETR's `annotations`."""
    return {"id": id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": box[2] * box[3]} | {
        "bbox": list(box),
        "tokens_positive": spans,
    }


def _mdetr(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": []}
