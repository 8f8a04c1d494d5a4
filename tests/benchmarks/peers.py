"""What BitGen's build is compared with. Each is one process that works on its part of a folder of photographs.

    python -m tests.benchmarks.peers webdataset FOLDER OUT PART PARTS PER_SHARD
    python -m tests.benchmarks.peers bare_decode FOLDER PART PARTS

FOLDER is what `photos.write_coco` makes; PART of PARTS (from 0) is a run of neighbours in their order.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import simplejpeg


def bare_decode(folder: Path, part: int, parts: int) -> None:
    """Every photograph becomes pixels, strictly, and nothing else happens."""
    for path in _part(sorted((folder / "photos").iterdir()), part, parts):
        simplejpeg.decode_jpeg(path.read_bytes(), "RGB", strict=True)


def webdataset(folder: Path, out: Path, part: int, parts: int, per_shard: int) -> None:
    """webdataset's own writer, fed with what our build checks and writes: each image decoded to its last byte, its
    size compared with the annotation's, its sha256 and its difference hash, and a record with all its captions.

    Source: https://github.com/webdataset/webdataset#creating-a-webdataset (ShardWriter with `maxcount`).
    """
    import numpy as np
    from PIL import Image
    from webdataset.writer import ShardWriter

    document = json.loads((folder / "captions.json").read_bytes())
    captions: dict[int, list[str]] = {}
    for row in document["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    looks: dict[str, list[Any]] = {}
    with ShardWriter(str(out / f"part{part}-%06d.tar"), maxcount=per_shard, verbose=0) as shards:
        for image in _part(document["images"], part, parts):
            data = (folder / "photos" / image["file_name"]).read_bytes()
            pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
            height, width, _ = pixels.shape
            if (width, height) != (image["width"], image["height"]):
                raise ValueError(f"expected {image}, found {width}x{height}")
            grey = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BILINEAR))
            look = int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")
            key, digest = f"coco-{image['id']:012d}", hashlib.sha256(data).hexdigest()
            record = {
                "key": key,
                "source": "bench",
                "split": "train",
                "ids": [f"coco:{image['id']}"],
                "width": width,
                "height": height,
                "licence": "CC BY",
                "url": "",
                "sha256": digest,
                "texts": [{"text": text, "phrases": []} for text in captions[image["id"]]],
            }
            shards.write({"__key__": key, "jpg": data, "json": record})
            looks[key] = [digest, look]
    (out / f"part{part}.looks.json").write_text(json.dumps(looks))


def _part(rows: list[Any], part: int, parts: int) -> list[Any]:
    """One of `parts` runs of neighbours, as even as can be."""
    return rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]


if __name__ == "__main__":
    name, folder, *rest = sys.argv[1:]
    if name == "webdataset":
        webdataset(Path(folder), Path(rest[0]), *map(int, rest[1:]))
    else:
        bare_decode(Path(folder), *map(int, rest))
