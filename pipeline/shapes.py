"""A drawn world to learn in: scenes of coloured shapes with captions and grounded sentences, in the official formats.

    FOLDER/images/train.tar                   train/000010000000.jpg, ...
    FOLDER/annotations/captions_train.json    COCO's captions
    FOLDER/annotations/grounded_train.json    MDETR's sentences
    FOLDER/annotations/described_train.json   the captions again, as sentences with a phrase for each thing
    FOLDER/shapes.toml                        the manifest; written last, so that what has one is whole

Splits: `train`; `val`, drawn like it, to watch a training by; `test`, with other templates, and every two scenes in turn
are twins that differ in one attribute or have two colours changed; `unseen`, like test, but some thing in each scene is of
a (colour, shape) pair of `HELD_OUT`, and only the phrases of such things have boxes. Beside it, test's scenes have a set
of sentences in which only the phrases of one pair have boxes: what the unseen ones are to be compared with.

A scene is a pure function of (seed, split, number, objects): a larger world holds a smaller one, and the files of two runs
are equal, byte for byte, under one version of Pillow.
"""

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bitgen.disk import file_sha256
from bitgen.progress import progress
from pipeline.building.workers import LocalWorkers
from pipeline.drawing.captions import captions, pairs
from pipeline.drawing.expressions import sentences
from pipeline.drawing.picture import jpeg, picture
from pipeline.drawing.records import Rows, RowsFile, caption_rows, file_name, sentence_rows
from pipeline.drawing.scene import HELD_OUT, Scene, draw_scene, draw_twins
from pipeline.files import locked, replacing, sweep, write_text

__all__ = ["HELD_OUT", "MANIFEST", "ShapesError", "World", "pairs", "write_world"]

MANIFEST = "shapes.toml"
FIRST_ID = {"train": 10_000_000, "val": 20_000_000, "test": 30_000_000, "unseen": 40_000_000}
"""By split, the id of its first scene. COCO's own have six digits at most, so none of them is one of these."""
MOST_SCENES = 10_000_000
"""Of a split: ids to the next one's."""
_TEMPLATES = {"train": "train", "val": "train", "test": "test", "unseen": "test"}
_TWINS = ("test", "unseen")
_SOURCES = {
    "train": (
        ("shapes-train", "captions_train"),
        ("shapes-grounded-train", "grounded_train"),
        ("shapes-described-train", "described_train"),
    ),
    "val": (("shapes-val", "captions_val"), ("shapes-grounded-val", "grounded_val")),
    "test": (
        ("shapes-test", "captions_test"),
        ("shapes-grounded-test", "grounded_test"),
        ("shapes-seen-grounded-test", "grounded_seen"),
    ),
    "unseen": (("shapes-unseen-test", "captions_unseen"), ("shapes-unseen-grounded-test", "grounded_unseen")),
}
"""By split: datasets and their annotation files, those of captions first."""
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
    rows: tuple[Rows, ...]
    """For each of its split's annotation files."""


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
                starts = range(0, count, _SCENES_PER_TASK)
                tasks = (Task(world, split, start, min(start + _SCENES_PER_TASK, count)) for start in starts)
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
        # One ground for both: what tells twins apart is what is drawn on it.
        ground = f"{rng.random()}"
        for i, scene in enumerate(draw_twins(rng, world.objects, is_unseen), number):
            if start <= i < stop:
                yield scene, random.Random(ground)


def draw(task: Task) -> list[Drawn]:
    """The scenes of a task, in order."""
    world, split, start, _ = task
    found = enumerate(scenes(*task), FIRST_ID[split] + start)
    return [_drawn(world.side_px, split, id, scene, rng) for id, (scene, rng) in found]


def _drawn(side_px: int, split: str, id: int, scene: Scene, rng: random.Random) -> Drawn:
    templates = _TEMPLATES[split]
    image = jpeg(picture(scene, rng, side_px))
    said = captions(scene, rng, templates)
    rows = [caption_rows(id, side_px, [caption.text for caption in said])]
    everything = frozenset(range(len(scene.things)))
    unseen = frozenset(i for i in everything if scene.things[i].pair in HELD_OUT)
    asked = [unseen or everything]
    if split == "test":
        pair = rng.choice(scene.things).pair
        asked.append(frozenset(i for i in everything if scene.things[i].pair == pair))
    for about in asked:
        rows.append(sentence_rows(id, side_px, scene, sentences(scene, rng, templates, about)))
    if split == "train":
        rows.append(sentence_rows(id, side_px, scene, said))
    return Drawn(file_name(id), image, tuple(rows))


@contextmanager
def _written(folder: Path, split: str) -> Iterator[Callable[[Drawn], None]]:
    """What takes the scenes of a split, in order; its files appear when the block ends well."""
    with ExitStack() as stack:
        tar, *annotations = (stack.enter_context(replacing(folder / name)) for name in _names(split))
        opened = stack.enter_context(tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT))
        files = [stack.enter_context(RowsFile(path)) for path in annotations]

        def add(drawn: Drawn) -> None:
            info = tarfile.TarInfo(f"{split}/{drawn.name}")
            info.size = len(drawn.image)
            opened.addfile(info, io.BytesIO(drawn.image))
            for file, rows in zip(files, drawn.rows, strict=True):
                file.add(rows)

        yield add


def _names(split: str) -> tuple[str, ...]:
    """The files of a split: its images, then its annotations."""
    return f"images/{split}.tar", *(f"annotations/{name}.json" for _, name in _SOURCES[split])


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
    ours = {".lock", *(name for split in FIRST_ID for name in _names(split))}
    for path in sorted(folder.rglob("*")):
        is_ours = path.relative_to(folder).as_posix() in ours or path.match(".*.tmp")
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
        for i, (dataset, annotations) in enumerate(_SOURCES[split]):
            name, _, part = dataset.rpartition("-")
            phase, reader = ("fine", "mdetr") if i else ("coarse", "coco")
            tables.append(
                f'[[source]]\nname = "{name}"\nphase = "{phase}"\nrole = "{"train" if split == "train" else "eval"}"\n'
                f'split = "{part}"\nreader = "{reader}"\nannotations = ["annotations/{annotations}.json"]\n'
                f'images = ["{split}"]\npublished = {{ images = {count} }}\nlinks = false\nrefusal_ceiling = 0.0\n'
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
