"""Annotation files as large as the official ones, in their schemas, written on the spot from numbers drawn with a seed.

A writer takes the path of a file and a scale (1.0: the size of the official file), fills it as a stream, and returns what
a reader has to find in it. What is written depends on the scale alone. Words are drawn from small lists, so texts are
of the usual length but say little; every box is good.
"""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.drawn import (
    HEIGHT,
    NOUNS,
    WIDTH,
    draw_boxes,
    draw_numbers,
    draw_phrases,
    draw_sentences,
    draw_words,
    joined,
    numbers,
    opened,
    shuffled,
    write_list,
)

COCO_IMAGES, COCO_CAPTIONS = 118_287, 591_753
KARPATHY_IMAGES, KARPATHY_CHOSEN = 123_287, 113_287
"""Of the second are train and restval, the first ones in the file; 5 sentences each."""
FLICKR_IMAGES = 31_783
VG_IMAGES, VG_REGIONS, VG_OBJECTS = 108_077, 50, 35
"""Regions and objects of an image."""
MIXED_ROWS, MIXED_PHOTOS = 1_300_000, 150_000
"""Two of three photographs are COCO's, the others Visual Genome's; the rows of one lie far from each other."""
REFCOCO_ROWS, REFCOCO_PHOTOS = 120_624, 16_994
SBU_ROWS, CC3M_ROWS = 1_000_000, 3_318_333
REPEATED = 1000
"""One row in so many of SBU and CC3M has the URL of the one before it."""
TABLE_ROWS, TABLE_IMAGES = 1_000_000, 200_000
"""The rows of one image lie far from each other."""


class Written(NamedTuple):
    """What a reader finds in a file."""

    images: int
    rows: int
    """Rows of annotation, all good."""


def coco_captions(path: Path, scale: float = 1.0) -> Written:
    """`captions_train2017.json`: captions in no order, licences and addresses as there."""
    images, rows = _scaled(COCO_IMAGES, scale), _scaled(COCO_CAPTIONS, scale)
    with opened(path) as file:
        file.write(
            '{"info": {"year": 2017}, "licenses": [{"url": "http://a/by/2.0/", "id": 4, "name": "BY"}], "images": '
        )
        write_list(
            file,
            (
                f'{{"license": 4,"file_name": "{id:012d}.jpg","coco_url": "http://images.cocodataset.org/train2017/{id:012d}'
                f'.jpg","height": {HEIGHT},"width": {WIDTH},"date_captured": "2013-11-14 17:02:52","flickr_url": '
                f'"http://farm7.staticflickr.com/6116/{id + 6255196340}_da26cf2c9e_z.jpg","id": {id}}}'
                for id in shuffled(images)
            ),
        )
        file.write(', "annotations": ')
        order = zip(shuffled(rows), draw_sentences(rows), strict=True)
        write_list(file, (f'{{"image_id": {row % images + 1},"id": {row},"caption": "{text}"}}' for row, text in order))
        file.write("}")
    return Written(images, rows)


def karpathy_coco(path: Path, scale: float = 1.0) -> Written:
    """`dataset_coco.json`; the counts are of train and restval."""
    images, chosen = _scaled(KARPATHY_IMAGES, scale), _scaled(KARPATHY_CHOSEN, scale)
    splits = ("train", "restval")
    with opened(path) as file:
        file.write('{"images": ')
        write_list(
            file,
            (
                f'{{"filepath": "val2014", "filename": "COCO_val2014_{n + 1:012d}.jpg", "imgid": {n}, '
                f'"split": "{splits[n % 2] if n < chosen else "test"}", {sentences}, "cocoid": {n + 1}}}'
                for n, sentences in _karpathy_sentences(images)
            ),
        )
        file.write(', "dataset": "coco"}')
    return Written(chosen, 5 * chosen)


def karpathy_flickr30k(path: Path, scale: float = 1.0) -> Written:
    """`dataset_flickr30k.json`, all of it train."""
    images = _scaled(FLICKR_IMAGES, scale)
    with opened(path) as file:
        file.write('{"images": ')
        write_list(
            file,
            (
                f'{{{sentences}, "imgid": {n}, "split": "train", "filename": "{n + 1000092795}.jpg"}}'
                for n, sentences in _karpathy_sentences(images)
            ),
        )
        file.write(', "dataset": "flickr30k"}')
    return Written(images, 5 * images)


def image_data(path: Path, scale: float = 1.0) -> Written:
    """Visual Genome's `image_data.json`: every other image is one of COCO's."""
    images = _scaled(VG_IMAGES, scale)
    with opened(path) as file:
        write_list(
            file,
            (
                f'{{"width": {WIDTH}, "url": "https://cs.stanford.edu/people/rak248/VG_100K_2/{id}.jpg", "height": {HEIGHT}, '
                f'"image_id": {id}, "coco_id": {id if id % 2 else "null"}, "flickr_id": null}}'
                for id in range(1, images + 1)
            ),
        )
    return Written(images, 0)


def region_descriptions(path: Path, scale: float = 1.0) -> Written:
    """Visual Genome's `region_descriptions.json`."""
    images = _scaled(VG_IMAGES, scale)
    rows = images * VG_REGIONS
    regions = (
        f'{{"region_id": {n + 1382}, "width": {w}, "height": {h}, "image_id": {n // VG_REGIONS + 1}, '
        f'"phrase": "{phrase}", "y": {y}, "x": {x}}}'
        for n, ((x, y, w, h), phrase) in enumerate(zip(draw_boxes(rows), draw_phrases(rows), strict=True))
    )
    with opened(path) as file:
        groups = (joined(regions, VG_REGIONS) for _ in range(images))
        write_list(file, (f'{{"regions": {group}, "id": {id}}}' for id, group in enumerate(groups, 1)))
    return Written(images, rows)


def objects(path: Path, scale: float = 1.0) -> Written:
    """Visual Genome's `objects.json`."""
    images = _scaled(VG_IMAGES, scale)
    rows = images * VG_OBJECTS
    things = (
        f'{{"synsets": ["{name}.n.01"], "h": {h}, "object_id": {n + 1058498}, "merged_object_ids": [], '
        f'"names": ["{name}"], "w": {w}, "y": {y}, "x": {x}}}'
        for n, ((x, y, w, h), name) in enumerate(zip(draw_boxes(rows), draw_words(rows, NOUNS), strict=True))
    )
    with opened(path) as file:
        groups = (joined(things, VG_OBJECTS) for _ in range(images))
        write_list(file, (f'{{"image_id": {id}, "objects": {group}}}' for id, group in enumerate(groups, 1)))
    return Written(images, rows)


def mixed(path: Path, scale: float = 1.0) -> Written:
    """MDETR's `final_mixed_train.json`: 1 to 8 boxes a row, of the 2, 3 or 4 things that its sentence names."""
    rows, photos = _scaled(MIXED_ROWS, scale), _scaled(MIXED_PHOTOS, scale)
    things = 2 + draw_numbers(rows, 3)
    counts = 1 + draw_numbers(rows, 8)

    def image(row: int, words: str) -> str:
        photo = row % photos + 1
        name, data_source = (f"{photo}.jpg", "vg") if photo % 3 == 0 else (f"COCO_train2014_{photo:012d}.jpg", "coco")
        return (
            f'{{"file_name": "{name}", "height": {HEIGHT}, "width": {WIDTH}, "id": {row}, "original_id": "{photo}", '
            f'"caption": "{words}", "tokens_negative": [[0, {len(words)}]], "data_source": "{data_source}", '
            '"dataset_name": "mixed"}'
        )

    def sentences() -> Iterator[list[str]]:
        phrases = draw_phrases(int(things.sum()))
        return (list(islice(phrases, n)) for n in numbers(things))

    def annotations() -> Iterator[str]:
        boxes, id = draw_boxes(int(counts.sum())), 0
        for row, (parts, count) in enumerate(zip(sentences(), numbers(counts), strict=True)):
            starts = [0]
            for part in parts:
                starts.append(starts[-1] + len(part) + 2)
            for n, (x, y, w, h) in enumerate(islice(boxes, count)):
                start, stop = starts[n % len(parts)], starts[n % len(parts) + 1] - 2
                yield (
                    f'{{"area": {w * h}.0, "iscrowd": 0, "image_id": {row}, "category_id": 1, "id": {id}, '
                    f'"bbox": [{x}, {y}, {w}, {h}], "tokens_positive": [[{start}, {stop}]]}}'
                )
                id += 1

    images = (image(row, ". ".join(parts)) for row, parts in enumerate(sentences()))
    _write_mdetr(path, images, annotations())
    return Written(photos, rows)


def refcoco(path: Path, scale: float = 1.0) -> Written:
    """MDETR's `finetune_refcoco_train.json`: a box a row, the rows of a photograph side by side."""
    rows, photos = _scaled(REFCOCO_ROWS, scale), _scaled(REFCOCO_PHOTOS, scale)
    images = (
        f'{{"file_name": "COCO_train2014_{photo:012d}.jpg", "height": {HEIGHT}, "width": {WIDTH}, "id": {row}, '
        f'"original_id": {photo}, "caption": "{words}", "dataset_name": "refcoco", "tokens_negative": [[0, {len(words)}]]}}'
        for row, words in enumerate(draw_phrases(rows))
        for photo in (row * photos // rows + 1,)
    )
    annotations = (
        f'{{"area": {w * h}.0, "iscrowd": 0, "image_id": {row}, "category_id": 1, "id": {row}, '
        f'"bbox": [{x}, {y}, {w}, {h}], "tokens_positive": [[0, {len(words)}]]}}'
        for row, ((x, y, w, h), words) in enumerate(zip(draw_boxes(rows), draw_phrases(rows), strict=True))
    )
    _write_mdetr(path, images, annotations)
    return Written(photos, rows)


def sbu(path: Path, scale: float = 1.0) -> Written:
    """`sbu-captions-all.json`."""
    rows = _scaled(SBU_ROWS, scale)
    urls = [n - (n % REPEATED == 1) for n in range(rows)]
    with opened(path) as file:
        file.write('{"image_urls": ')
        write_list(file, (f'"http://static.flickr.com/2723/{n + 4385058960}_b0f291553e.jpg"' for n in urls))
        file.write(', "user_ids": ')
        write_list(file, (f'"{n % 999}@N00"' for n in range(rows)))
        file.write(', "captions": ')
        write_list(file, (f'"{text}"' for text in draw_sentences(rows)))
        file.write("}")
    return Written(len(set(urls)), rows)


def cc3m(path: Path, scale: float = 1.0) -> Written:
    """`GCC-training.tsv`."""
    rows, images = _scaled(CC3M_ROWS, scale), 0
    with opened(path) as file:
        for n, text in enumerate(draw_sentences(rows)):
            url = n - (n % REPEATED == 1)
            images += url == n
            file.write(f"{text}\thttps://i{url % 7}.example.org/images/of/a/newspaper/{url:08d}-1024x683.jpg\n")
    return Written(images, rows)


def table(path: Path, scale: float = 1.0) -> Written:
    """A user's table, `.csv`, `.jsonl` or `.parquet`, with a box in every row."""
    rows, images = _scaled(TABLE_ROWS, scale), _scaled(TABLE_IMAGES, scale)
    columns = ("path", "caption", "width", "height", "boxes")
    lines = (
        (f"pictures/{n % images:08d}.jpg", text, WIDTH, HEIGHT, [box])
        for n, (text, box) in enumerate(zip(draw_sentences(rows), draw_boxes(rows), strict=True))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.list_(pa.list_(pa.int64())))
        schema = pa.schema(list(zip(columns, kinds, strict=True)))
        with pq.ParquetWriter(path, schema) as parquet:
            while some := list(islice(lines, 100_000)):
                parquet.write_table(
                    pa.Table.from_pylist([dict(zip(columns, line, strict=True)) for line in some], schema)
                )
    elif path.suffix == ".jsonl":
        with opened(path) as file:
            file.writelines(json.dumps(dict(zip(columns, line, strict=True))) + "\n" for line in lines)
    else:
        with opened(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows((*line[:4], json.dumps(line[4])) for line in lines)
    return Written(images, rows)


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _write_mdetr(path: Path, images: Iterator[str], annotations: Iterator[str]) -> None:
    with opened(path) as file:
        file.write('{"info": [], "licenses": [], "images": ')
        write_list(file, images)
        file.write(', "annotations": ')
        write_list(file, annotations)
        file.write(', "categories": [{"supercategory": "object", "id": 1, "name": "object"}]}')


def _karpathy_sentences(images: int) -> Iterator[tuple[int, str]]:
    """Of every image, `sentids` and `sentences` as Karpathy's files have them."""
    texts = draw_sentences(5 * images)
    for image in range(images):
        sentences = []
        for id, raw in enumerate(islice(texts, 5), 5 * image):
            tokens = '", "'.join(raw[:-1].lower().split())
            sentences.append(f'{{"tokens": ["{tokens}"], "raw": "{raw}", "imgid": {image}, "sentid": {id}}}')
        ids = ", ".join(map(str, range(5 * image, 5 * image + 5)))
        yield image, f'"sentids": [{ids}], "sentences": [{", ".join(sentences)}]'
