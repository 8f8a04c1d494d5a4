"""A drawn world to learn in: scenes of coloured shapes with captions and grounded sentences, in the official formats.

    FOLDER/images/train.tar                   train/000010000000.jpg, ...
    FOLDER/annotations/captions_train.json    COCO's captions
    FOLDER/annotations/grounded_train.json    MDETR's sentences
    FOLDER/shapes.toml                        the manifest; written last, so that what has one is whole

Splits: `train`; `val`, drawn like it, to watch a training by; `test`, other templates and layouts, and every two scenes in
turn twins that differ in one attribute or have two colours changed; `unseen`, like test, but some thing in each scene has a
(colour, shape) pair of `HELD_OUT`, and only those things' phrases have boxes.

A scene is a pure function of (seed, split, number, sizes): a larger world holds a smaller one, and the files of two runs
are equal, byte for byte, under one version of Pillow.
"""

import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bitgen.disk import file_sha256
from bitgen.progress import progress
from pipeline.building.workers import LocalWorkers
from pipeline.drawing.captions import captions, pairs
from pipeline.drawing.expressions import sentences
from pipeline.drawing.picture import box_px, jpeg, picture
from pipeline.drawing.scene import HELD_OUT, Scene, draw_scene, draw_twins
from pipeline.files import locked, replacing, sweep, write_text

__all__ = ["HELD_OUT", "ShapesError", "World", "pairs", "write_world"]

MANIFEST = "shapes.toml"
FIRST_ID = {"train": 10_000_000, "val": 20_000_000, "test": 30_000_000, "unseen": 40_000_000}
"""By split, the id of its first scene. COCO's own have six digits at most, so none of them is one of these."""
MOST_SCENES = 10_000_000
"""Of a split: ids to the next one's."""
_TEMPLATES = {"train": "train", "val": "train", "test": "test", "unseen": "test"}
_TWINS = ("test", "unseen")
_ROWS_PER_SCENE = 100
"""Ids for the captions, sentences or boxes of a scene; it has no more than 8 sentences with 3 boxes each."""
_SCENES_PER_TASK = 100  # even: twins stay together


class ShapesError(ValueError):
    """The folder holds something else, or another world."""


@dataclass(frozen=True)
class World:
    """What to draw. Raises `ValueError` for what cannot be drawn."""

    train: int = 20_000
    val: int = 200
    test: int = 500
    """Scenes of `test`, and as many of `unseen`."""
    side_px: int = 112
    objects: tuple[int, ...] = (4, 5)
    """Things in a scene: one of these numbers."""
    seed: int = 0

    def __post_init__(self) -> None:
        for what, count in (("train", self.train), ("val", self.val), ("test", self.test)):
            if not 1 <= count <= MOST_SCENES:
                raise ValueError(f"expected {what} of 1 to {MOST_SCENES:,} scenes, found {count:,}")
        if not 64 <= self.side_px <= 1024:
            raise ValueError(f"expected a side of 64 to 1024 pixels, found {self.side_px}")
        if not self.objects or not all(3 <= count <= 6 for count in self.objects):
            raise ValueError(f"expected 3 to 6 objects, found {', '.join(map(str, self.objects)) or 'none'}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of 0 or more, found {self.seed}")

    @property
    def splits(self) -> dict[str, int]:
        """Scenes by split."""
        return {"train": self.train, "val": self.val, "test": self.test, "unseen": self.test}


class Task(NamedTuple):
    """Scenes [start, stop) of a split."""

    world: World
    split: str
    start: int
    stop: int


class Drawn(NamedTuple):
    """One scene as it is written."""

    name: str
    image: bytes
    caption_image: str
    """Rows of JSON, here and below, with a comma between them."""
    caption_rows: str
    sentence_rows: str
    box_rows: str


def write_world(folder: Path, world: World, workers: int = 1) -> bool:
    """Writes `world` into `folder`; False where it is there already.

    An unfinished world is written again. Raises `ShapesError` where `folder` holds another world or other files, and
    `BusyError`, `WorkerError` and `OSError` (a full disk as `FullDiskError`).
    """
    if not _is_to_write(folder, world):
        return False
    with locked(folder), LocalWorkers(workers) as crew:
        for each in (folder / "images", folder / "annotations", folder):
            sweep(each)
        with progress("drawing", sum(world.splits.values()), "scenes") as counter:
            for split, count in world.splits.items():
                tasks = (
                    Task(world, split, start, min(start + _SCENES_PER_TASK, count))
                    for start in range(0, count, _SCENES_PER_TASK)
                )
                with _written(folder, split) as add:
                    for drawn in crew.each(draw, tasks):
                        for each in drawn:
                            add(each)
                        counter.update(len(drawn))
        write_text(folder / MANIFEST, _manifest(folder, world))
    return True


def scenes(world: World, split: str, start: int, stop: int) -> Iterator[tuple[Scene, random.Random]]:
    """Scenes [start, stop) of a split, with the generator that their pictures and texts are made by."""
    is_unseen, step = split == "unseen", 2 if split in _TWINS else 1
    for number in range(start - start % step, stop, step):
        rng = random.Random(f"{world.seed}/{split}/{number}/{world.objects}")
        if step == 1:
            yield draw_scene(rng, world.objects, is_unseen), rng
            continue
        ground = rng.random()
        for i, scene in enumerate(draw_twins(rng, world.objects, is_unseen)):
            if start <= number + i < stop:
                # One ground for both: what tells twins apart is what is drawn on it.
                yield scene, random.Random(f"{ground}")


def draw(task: Task) -> list[Drawn]:
    """The scenes of a task, in order."""
    found = enumerate(scenes(*task), task.start)
    return [_drawn(task.world, task.split, FIRST_ID[task.split] + i, scene, rng) for i, (scene, rng) in found]


def _drawn(world: World, split: str, id: int, scene: Scene, rng: random.Random) -> Drawn:
    templates, name = _TEMPLATES[split], f"{id:012d}.jpg"
    image = jpeg(picture(scene, rng, world.side_px))
    size = {"width": world.side_px, "height": world.side_px}
    texts = captions(scene, rng, templates)
    about = frozenset(i for i, thing in enumerate(scene.things) if thing.pair in HELD_OUT)
    rows, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
    for sentence in sentences(scene, rng, templates, about):
        row = id * _ROWS_PER_SCENE + len(rows)
        for start, stop, who in sentence.phrases:
            for i in who:
                x, y, w, h = box_px(scene.things[i], world.side_px)
                box = {"id": id * _ROWS_PER_SCENE + len(boxes), "image_id": row, "category_id": 1}
                place = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                boxes.append(box | place | {"tokens_positive": [[start, stop]]})
        whose = {"id": row, "original_id": id, "file_name": name} | size
        rows.append(whose | {"caption": sentence.text, "dataset_name": "mixed", "data_source": "coco"})
    captioned = [{"id": id * _ROWS_PER_SCENE + i, "image_id": id, "caption": text} for i, text in enumerate(texts)]
    return Drawn(
        name, image, _json([{"id": id, "file_name": name} | size]), _json(captioned), _json(rows), _json(boxes)
    )


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, separators=(",", ":"))[1:-1]


@contextmanager
def _written(folder: Path, split: str) -> Iterator[Callable[[Drawn], None]]:
    """What takes the scenes of a split, in order; its three files appear when the block ends well."""
    with ExitStack() as stack:
        enter = stack.enter_context
        tar, captioned, grounded = (enter(replacing(folder / name)) for name in _names(split))
        opened = enter(tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT))  # noqa: SIM115 (the stack closes it)
        files = [enter(_Rows(path)) for path in (captioned, grounded)]

        def add(drawn: Drawn) -> None:
            info = tarfile.TarInfo(f"{split}/{drawn.name}")
            info.size = len(drawn.image)
            opened.addfile(info, io.BytesIO(drawn.image))
            files[0].add(drawn.caption_image, drawn.caption_rows)
            files[1].add(drawn.sentence_rows, drawn.box_rows)

        yield add


class _Rows:
    """An annotation file of `images` and `annotations`, neither of which is ever in memory as a whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._comma = path, ""

    def __enter__(self) -> "_Rows":
        self._file = self._path.open("w", encoding="ascii")
        self._rest = tempfile.TemporaryFile("w+", encoding="ascii", dir=self._path.parent)
        self._file.write('{"info":{"description":"drawn by bitgen-shapes"},"licenses":[],"images":[')
        return self

    def add(self, images: str, annotations: str) -> None:
        """Rows of the two lists."""
        self._file.write(f"{self._comma}{images}")
        self._rest.write(f"{self._comma}{annotations}")
        self._comma = ",\n"

    def __exit__(self, *_: object) -> None:
        with self._file, self._rest:
            self._file.write('],"annotations":[')
            self._rest.seek(0)
            shutil.copyfileobj(self._rest, self._file)
            self._file.write('],"categories":[{"id":1,"name":"shape"}]}\n')


def _names(split: str) -> tuple[str, str, str]:
    return f"images/{split}.tar", f"annotations/captions_{split}.json", f"annotations/grounded_{split}.json"


def _is_to_write(folder: Path, world: World) -> bool:
    """False where `folder` holds `world`. Raises `ShapesError` where it holds what is not to be written over."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        raise ShapesError(f"expected a folder to draw into, found a file: {folder}")
    manifest = folder / MANIFEST
    if manifest.is_file():
        said = manifest.read_text(encoding="utf-8").partition("\n")[0]
        if said == _heading(world):
            return False
        raise ShapesError(f"expected no other world, found one: {said.lstrip('# ')}: {manifest}")
    ours = {name for split in FIRST_ID for name in _names(split)}
    for path in sorted(folder.rglob("*")):
        is_ours = path.relative_to(folder).as_posix() in ours or path.name.startswith(".")
        if path.is_file() and not is_ours:
            raise ShapesError(f"expected an empty folder, or one that a drawing was stopped in, found {path}")
    return True


def _heading(world: World) -> str:
    """The first line of the manifest, by which a world is known again."""
    objects = " ".join(map(str, world.objects))
    sizes = f"--train {world.train} --val {world.val} --test {world.test} --side {world.side_px}"
    return f"# bitgen-shapes {sizes} --objects {objects} --seed {world.seed}"


def _manifest(folder: Path, world: World) -> str:
    tables = [f'{_heading(world)}\nname = "shapes"\nlicence = "CC0 1.0: drawn, by a program"\n']
    for split, count in world.splits.items():
        name, part = ("shapes-unseen", "test") if split == "unseen" else ("shapes", split)
        for which, (phase, reader) in enumerate((("coarse", "coco"), ("fine", "mdetr")), 1):
            tables.append(
                f'[[source]]\nname = "{name}{"-grounded" * (which - 1)}"\nphase = "{phase}"\n'
                f'role = "{"train" if split == "train" else "eval"}"\nsplit = "{part}"\nreader = "{reader}"\n'
                f'annotations = ["{_names(split)[which]}"]\nimages = ["{split}"]\n'
                f"published = {{ images = {count} }}\nlinks = false\nrefusal_ceiling = 0.0\n"
            )
    for split in world.splits:
        for name in _names(split):
            path = folder / name
            unpack = f'holds = ["{split}"]\nunpack = true\n' if name.endswith(".tar") else ""
            tables.append(
                f'[[file]]\npath = "{name}"\nurls = ["{name}"]\nbytes = {path.stat().st_size}\n'
                f'sha256 = "{file_sha256(path)}"\n{unpack}'
            )
    return "\n".join(tables)
