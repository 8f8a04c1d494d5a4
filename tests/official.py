"""Every file that the shipped manifests name, tiny, in its official layout and schema, made on the spot.

Photographs stand here by the ids that their datasets give them. Of those that may not be trained on, a comment says
what they are known by as evaluation images. `tests/night.py` serves all of it, and builds shards from it.
"""

import functools
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from tests import official_rows as rows
from tests.official_rows import Photo, Size

SIZE, SMALL = (90, 80), (45, 40)
"""Pixels of every photograph, and of smaller copies."""

K_TRAIN, K_SECOND = 1000092795, 10002456
F_VAL, F_TEST = 1000268201, 1000344755
"""Flickr30k's photographs, of both families of splits: to train on, val, test."""
E_VAL, E_TEST = 1000366164, 1000523639
"""Karpathy's train, but Flickr30k Entities' val and test."""
K_VAL, K_TEST = 10010052, 1000919630
"""Entities' train, but Karpathy's val and test."""
F_COCO, F_SAME, F_SMALL = 7000042, 10001, 10002
"""Train in both: also COCO's 42; the bytes of F_TEST; a smaller copy of COCO's 64."""

COCO_TRAIN = {
    9: "train",
    25: "train",
    30: "restval",
    34: "train",  # Flickr30k's F_TEST, by its flickr_url
    36: "train",  # the bytes of 42
    62: "train",  # a smaller copy of 285
    42: "test",  # of the shipped list
    49: "test",  # of no shipped list
    285: "val",
    154: "train",  # of the shipped list of RefCOCO
    **dict.fromkeys((64, 71, 72, 73, 77, 78, 81), "train"),  # RefCOCO's evaluation images of no shipped list
    74: "train",  # not in the zip
    80: "train",  # cut short
    359: "train",  # of the shipped list of Karpathy's test, and of no evaluation file here
}
"""train2017's photographs, and Karpathy's splits of them."""
COCO_VAL = {139: "val", 6818: "restval"}
"""Likewise val2017's."""
COCO_FLICKR = {id: 7000000 + id for id in (*COCO_TRAIN, *COCO_VAL)} | {34: F_TEST}
"""Their Flickr ids."""
EXPRESSIONS = {
    "refcoco": {"val": (154,), "testA": (64,), "testB": (71,)},
    "refcoco+": {"val": (72,), "testA": (73,), "testB": (77,)},
    "refcocog": {"val": (78,), "test": (81,)},
}
"""Evaluation photographs of the three sets; those of two are in the training file of the third."""
EXPRESSIONS_TRAIN = {"refcoco": (9, 25), "refcoco+": (9, 30), "refcocog": (25, 30)}
COCO_KNOWN = (42, 285, 6818, 34, 36, 62)
"""Evaluation photographs of other datasets, which all grounding files on COCO have."""

VG = {
    2: ("VG_100K", None, None),
    5: ("VG_100K", 9, None),
    61: ("VG_100K_2", -1, None),
    7: ("VG_100K", 42, None),
    14: ("VG_100K", 6818, None),
    15: ("VG_100K_2", 73, None),
    11: ("VG_100K", 34, None),
    8: ("VG_100K", None, F_TEST),
    10: ("VG_100K_2", None, 7000042),
    12: ("VG_100K", None, None),  # the bytes of COCO's 49
    13: ("VG_100K_2", -1, None),  # a smaller copy of COCO's 6818
}
"""Visual Genome's images: their zip, coco_id and flickr_id."""
GQA = (2, 7, 12)
"""Those that are in GQA's zip too, beside its own n161313.jpg."""

_SMALL = {("coco", 62), ("vg", 13), ("flickr", F_SMALL)}


def photo(name: str) -> bytes:
    """A JPEG of 9x8 random patches: no two names look alike."""
    return _saved(_patches(name), SIZE, 92)


def copy_of(name: str) -> bytes:
    """The same at half the size, saved anew."""
    return _saved(_patches(name), SMALL, 50)


@functools.cache
def photos() -> Mapping[str, bytes]:
    """Every photograph of an archive, by its path under `raw/` once it is unpacked."""
    coco = {f"train2017/{id:012d}.jpg": photo(f"coco {id}") for id in COCO_TRAIN if id != 74}
    coco |= {f"val2017/{id:012d}.jpg": photo(f"coco {id}") for id in COCO_VAL}
    coco |= {"train2017/000000000036.jpg": photo("coco 42"), "train2017/000000000062.jpg": copy_of("coco 285")}
    coco["train2017/000000000080.jpg"] = photo("coco 80")[:-400]
    genome = {id: photo(f"vg {id}") for id in VG} | {12: photo("coco 49"), 13: copy_of("coco 6818")}
    known = (K_TRAIN, K_SECOND, F_VAL, F_TEST, E_VAL, E_TEST, K_VAL, K_TEST, F_COCO)
    flickr = {id: photo(f"flickr {id}") for id in known}
    flickr |= {F_SAME: photo(f"flickr {F_TEST}"), F_SMALL: copy_of("coco 64")}
    return {
        **{f"coco/{path}": image for path, image in coco.items()},
        **{f"visual_genome/{VG[id][0]}/{id}.jpg": image for id, image in genome.items()},
        **{f"mixed/images/images/{id}.jpg": genome[id] for id in GQA},
        "mixed/images/images/n161313.jpg": photo("gqa 161313"),
        **{f"flickr30k/images/flickr30k-images/{id}.jpg": image for id, image in flickr.items()},
    }


def documents(address: str) -> dict[str, Any]:
    """Every annotation file by its path under `raw/`: what a JSON file holds, the lines of another."""
    made: dict[str, Any] = {
        "coco/annotations/captions_train2017.json": rows.captions(
            "train2017", {id: _size(("coco", id)) for id in COCO_TRAIN}, COCO_FLICKR, 100
        ),
        "coco/annotations/captions_val2017.json": rows.captions(
            "val2017", dict.fromkeys(COCO_VAL, SIZE), COCO_FLICKR, 900
        ),
        "coco/dataset_coco.json": rows.karpathy("coco", COCO_TRAIN | COCO_VAL),
        "flickr30k/dataset_flickr30k.json": rows.karpathy("flickr30k", _flickr30k_splits()),
        "flickr30k/flickr30k_entities/val.txt": [f"{F_VAL}", f"{E_VAL}"],
        "flickr30k/flickr30k_entities/test.txt": [f"{F_TEST}", f"{E_TEST}"],
        "visual_genome/image_data.json": [rows.image_data(id, _size(("vg", id)), *VG[id][1:]) for id in VG],
        "visual_genome/region_descriptions.json": [rows.regions(id) for id in (*VG, 404)],
        "visual_genome/objects.json": [rows.objects(id) for id in reversed(VG)],
        "mixed/final_mixed_train_no_coco.json": _mdetr("mixed", vg=VG),
        "sbu/sbu-captions-all.json": {
            "image_urls": [url for url, _ in links(address, "sbu")],
            "user_ids": [f"user {n}" for n, _ in enumerate(links(address, "sbu"))],
            "captions": [caption for _, caption in links(address, "sbu")],
        },
        "cc3m/GCC-training.tsv": [f"{caption}\t{url}" for url, caption in links(address, "cc3m")],
        "cc3m/GCC-1.1.0-Validation.tsv": [f"two\t{address}/cc3m/eval.jpg", f"dead\t{address}/cc3m/dead.jpg"],
    }
    grounded = {"final_mixed_train": _mdetr("mixed", coco=(9, 25, *COCO_KNOWN, 154, 73), vg=VG, gqa=(161313,))}
    entities = {"train": (K_TRAIN, K_SECOND, K_VAL, K_TEST, F_COCO, F_SAME, F_SMALL)}
    for split, ids in {**entities, "val": (F_VAL, E_VAL), "test": (F_TEST, E_TEST)}.items():
        grounded[f"final_flickr_separateGT_{split}"] = _mdetr("flickr", flickr=ids)
    for name, splits in EXPRESSIONS.items():
        others = [id for other in EXPRESSIONS if other != name for ids in EXPRESSIONS[other].values() for id in ids]
        train = (*EXPRESSIONS_TRAIN[name], *COCO_KNOWN, *others)
        for split, ids in {"train": train, **splits}.items():
            grounded[f"finetune_{name}_{split}"] = _mdetr(name, coco=ids)
    made |= {f"refcoco/OpenSource/{name}.json": document for name, document in grounded.items()}
    _spoil(made)
    return made


def links(address: str, name: str) -> list[tuple[str, str]]:
    """(URL, caption) of every row of SBU or CC3M; the local server's URLs and others (`crawled_elsewhere`)."""
    own = f"{address}/{name}"
    found = [
        (f"{own}/one.jpg", "a dog"),
        (f"{own}/two.jpg", "a ball"),
        (f"{own}/one.jpg", "the same photograph again"),
        (f"{own}/gone.jpg", "a dead link"),
        (f"{own}/page.jpg", "a page of HTML"),
        (f"{own}/mine.jpg", "an owner who asks to be left out"),
        ("no address", "a row without an address"),
        ("http://farm5.static.flickr.com/4/4385058960_b0f291553e.jpg", "of Flickr, and of no evaluation set"),
        (f"http://static.flickr.com/2723/{F_TEST}_b0f291553e.jpg", "of Flickr30k's test"),
        (f"http://farm4.staticflickr.com/3153/{F_COCO}_8f6b5d9be6_z.jpg", "of COCO's test"),
        (f"https://farm9.staticflickr.com/8/{COCO_FLICKR[6818]}_8f6b5d9be6.jpg", "of COCO val2017"),
        (f"{own}/same.jpg", "the bytes of COCO's 42"),
        (f"{own}/small.jpg", "a smaller copy of COCO's 6818"),
    ]
    if name == "cc3m":
        found += [
            ("http://images.cocodataset.org/val2017/000000006818.jpg", "of COCO val2017, by its URL"),
            ("http://images.cocodataset.org/train2017/000000000042.jpg", "of COCO's test, by its URL"),
            (f"{own}/validation.jpg", "the bytes of an image of the validation file"),
        ]
    return found


def crawled_here(name: str) -> dict[str, bytes]:
    """What the local server has of `links`, by path."""
    found = {"one": photo(f"{name} 1"), "two": photo(f"{name} 2"), "mine": photo(f"{name} 3")}
    found |= {"page": b"<html>not found, but 200</html>", "same": photo("coco 42"), "small": copy_of("coco 6818")}
    if name == "cc3m":
        found |= {"validation": photo("cc3m eval"), "eval": photo("cc3m eval")}
    return {f"/{name}/{each}.jpg": image for each, image in found.items()}


def crawled_elsewhere(address: str, name: str) -> dict[str, bytes]:
    """The images of all other URLs of `links`: none looks like an evaluation image, so that ids alone tell."""
    return {url: photo(url) for url, _ in links(address, name) if url.startswith("http") and address not in url}


def files(address: str) -> dict[str, bytes]:
    """Every file of the shipped manifests, as `manifest/path`; the same bytes at every call."""
    made = {path: _encoded(path, document) for path, document in documents(address).items()} | dict(photos())

    def under(folder: str, *only: str) -> dict[str, bytes]:
        found = {path.removeprefix(folder): body for path, body in made.items() if path.startswith(folder)}
        return {path: body for path, body in found.items() if path.startswith(only or "")}

    karpathy = _zip(under("coco/", "dataset_coco") | under("flickr30k/", "dataset") | {"dataset_flickr8k.json": b"{}"})
    genome = ("image_data.json", "region_descriptions.json", "objects.json")
    return {
        "coco/train2017.zip": _zip(under("coco/", "train2017/")),
        "coco/val2017.zip": _zip(under("coco/", "val2017/")),
        "coco/annotations_trainval2017.zip": _zip(under("coco/", "annotations/")),
        "coco/caption_datasets.zip": karpathy,
        "flickr30k/caption_datasets.zip": karpathy,
        "flickr30k/flickr30k-images.zip": _zip(under("flickr30k/images/")),
        "visual_genome/images.zip": _zip(under("visual_genome/", "VG_100K/")),
        "visual_genome/images2.zip": _zip(under("visual_genome/", "VG_100K_2/")),
        **{f"visual_genome/{name}.zip": _zip(under("visual_genome/", name)) for name in genome},
        "sbu/sbu-captions-all.tar.gz": _tar_gz(under("sbu/")),
        "refcoco/mdetr_annotations.tar.gz": _tar_gz(under("refcoco/")),
        "mixed/gqa_images.zip": _zip(under("mixed/images/")),
        **{path: made[path] for path in made if path.startswith(("cc3m/", "mixed/final", "flickr30k/flickr30k_ent"))},
    }


def _flickr30k_splits() -> dict[int, str]:
    """Karpathy's."""
    train = (K_TRAIN, K_SECOND, E_VAL, E_TEST, F_COCO, F_SAME, F_SMALL)
    return dict.fromkeys(train, "train") | {F_VAL: "val", K_VAL: "val", F_TEST: "test", K_TEST: "test"}


def _spoil(made: dict[str, Any]) -> None:
    """A few rows become such as cannot be used; image 404 of Visual Genome, which nothing is known of, has two more."""
    made["coco/annotations/captions_train2017.json"]["annotations"][3]["caption"] = " "
    made["visual_genome/region_descriptions.json"][0]["regions"][1]["width"] = 0
    made["visual_genome/objects.json"][-1]["objects"][1]["names"] = []
    made["refcoco/OpenSource/finetune_refcoco+_train.json"]["annotations"][3]["bbox"] = [200, 0, 9, 9]
    made["refcoco/OpenSource/final_mixed_train.json"]["annotations"][1]["bbox"] = [200, 0, 9, 9]
    made["mixed/final_mixed_train_no_coco.json"]["images"][1]["caption"] = ""


def _mdetr(dataset: str, **ids: Iterable[int]) -> dict[str, Any]:
    """A grounding file on photographs by kind."""
    return rows.mdetr(dataset, {(kind, id): _size((kind, id)) for kind, some in ids.items() for id in some})


def _size(photo: Photo) -> Size:
    return SMALL if photo in _SMALL else SIZE


def _patches(name: str) -> Image.Image:
    dice = random.Random(name)
    patches = Image.new("RGB", (9, 8))
    patches.putdata([(dice.randrange(256), dice.randrange(256), dice.randrange(256)) for _ in range(72)])
    return patches


def _saved(image: Image.Image, size: Size, quality: int) -> bytes:
    file = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _encoded(path: str, document: Any) -> bytes:
    lines = "".join(f"{line}\n" for line in document) if path.endswith((".tsv", ".txt")) else json.dumps(document)
    return lines.encode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, body in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(body)
            archive.addfile(about, io.BytesIO(body))
    return gzip.compress(file.getvalue(), mtime=0)
