"""Texts of a scene as rows of COCO's captions and of MDETR's sentences, and the files that hold them."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.drawing.picture import box_px
from pipeline.drawing.scene import Scene
from pipeline.sentences import Sentence

_PER_SCENE = 100
"""Ids for the captions, sentences or boxes of a scene, which has no more than 8 sentences of 3 boxes each."""


class Rows(NamedTuple):
    """JSON of the rows of one scene, a comma between them."""

    images: str
    annotations: str


def file_name(id: int) -> str:
    """Of a scene's picture: as COCO names its photographs."""
    return f"{id:012d}.jpg"


def caption_rows(id: int, side_px: int, captions: Sequence[str]) -> Rows:
    """COCO's: a row for the scene, and one for each caption."""
    image = {"id": id, "file_name": file_name(id), "width": side_px, "height": side_px}
    said = [{"id": id * _PER_SCENE + i, "image_id": id, "caption": text} for i, text in enumerate(captions)]
    return Rows(_json([image]), _json(said))


def sentence_rows(id: int, side_px: int, scene: Scene, sentences: Sequence[Sentence]) -> Rows:
    """MDETR's: a row for each sentence, and one for each box of its phrases."""
    images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
    size = {"width": side_px, "height": side_px}
    for row, sentence in enumerate(sentences, id * _PER_SCENE):
        image = {"id": row, "original_id": id, "file_name": file_name(id), "caption": sentence.text}
        images.append(image | size | {"dataset_name": "mixed", "data_source": "coco"})
        for start, stop, who in sentence.phrases:
            for i in who:
                x, y, w, h = box_px(scene.things[i], side_px)
                box = {"id": id * _PER_SCENE + len(boxes), "image_id": row, "category_id": 1, "iscrowd": 0}
                boxes.append(box | {"bbox": [x, y, w, h], "area": w * h, "tokens_positive": [[start, stop]]})
    return Rows(_json(images), _json(boxes))


class RowsFile:
    """An annotation file of `images` and `annotations`, neither of which is ever in memory as a whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._comma = path, ""

    def __enter__(self) -> "RowsFile":
        self._file = self._path.open("w", encoding="ascii")
        self._rest = tempfile.TemporaryFile("w+", encoding="ascii", dir=self._path.parent)
        self._file.write('{"info":{"description":"drawn by bitgen-shapes"},"licenses":[],"images":[')
        return self

    def __exit__(self, *_: object) -> None:
        with self._file, self._rest:
            self._file.write('],"annotations":[')
            self._rest.seek(0)
            shutil.copyfileobj(self._rest, self._file)
            self._file.write('],"categories":[{"id":1,"name":"shape"}]}\n')

    def add(self, rows: Rows) -> None:
        """The rows of one scene more."""
        self._file.write(f"{self._comma}{rows.images}")
        self._rest.write(f"{self._comma}{rows.annotations}")
        self._comma = ",\n"


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, separators=(",", ":"))[1:-1]
