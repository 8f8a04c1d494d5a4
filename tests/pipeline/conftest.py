"""A data folder with COCO-like sources, whose images and captions a test chooses."""

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.build import Built, Options, build
from pipeline.ledger import Line, read_ledger
from pipeline.manifest import Manifest, Source


def picture(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG", **save: Any) -> bytes:
    """An encoded image of 9x8 random patches: no two seeds look alike."""
    dice = random.Random(seed)
    patches = Image.new("RGB", (9, 8))
    patches.putdata([(dice.randrange(256), dice.randrange(256), dice.randrange(256)) for _ in range(72)])
    file = io.BytesIO()
    patches.resize(size, Image.Resampling.NEAREST).save(file, kind, **save)
    return file.getvalue()


@dataclass
class World:
    """Sources of one manifest under `data`."""

    data: Path
    sources: list[Source] = field(default_factory=list)
    lists: tuple[Path, ...] = ()

    def add(
        self,
        split: str,
        images: dict[int, bytes | None],
        captions: dict[int, Sequence[str]] | None = None,
        sizes: dict[int, tuple[int, int]] | None = None,
        flickr: dict[int, int] | None = None,
        **fields: Any,
    ) -> Source:
        """A source `world-<split>`: images by COCO id (None: not on disk), two captions each unless said otherwise."""
        root = self.data / "raw" / "world"
        (root / split).mkdir(parents=True, exist_ok=True)
        for id, content in images.items():
            if content is not None:
                (root / split / f"{id}.jpg").write_bytes(content)
        captions = captions or {id: (f"first of {id}", f"second of {id}") for id in images}
        sizes, flickr = sizes or {}, flickr or {}
        rows = [(id, caption) for id in captions for caption in captions[id]]
        document = {
            "licenses": [],
            "images": [
                {
                    "id": id,
                    "file_name": f"{id}.jpg",
                    "width": sizes.get(id, (48, 40))[0],
                    "height": sizes.get(id, (48, 40))[1],
                    "flickr_url": f"http://farm4.staticflickr.com/1/{flickr[id]}_8f_z.jpg" if id in flickr else "",
                }
                for id in images
            ],
            "annotations": [{"id": i, "image_id": id, "caption": caption} for i, (id, caption) in enumerate(rows)],
        }
        (root / f"{split}.json").write_text(json.dumps(document))
        known: dict[str, Any] = {
            "name": "world",
            "phase": "coarse",
            "role": "train",
            "split": split,
            "reader": "coco",
            "annotations": (f"{split}.json",),
            "images": (split,),
            "refusal_ceiling": 1.0,
            "samples_per_shard": 3,
            "licence": "CC0",
            "manifest": "world",
        }
        source = Source(**known | fields)
        self.sources = [s for s in self.sources if s.dataset != source.dataset] + [source]
        return source

    @property
    def manifest(self) -> Manifest:
        """With all the sources that were added."""
        return Manifest("world", "CC0", self.data / "world.toml", (), tuple(self.sources), self.lists)

    def build(self, wanted: Sequence[Source] | None = None, **options: Any) -> list[Built]:
        """Builds `wanted`, by default every source."""
        return list(build([self.manifest], self.data, wanted or self.sources, Options(**options)))

    def ledger(self, source: Source) -> list[Line]:
        """The ledger of a source that was built."""
        return list(read_ledger(self.folder(source)))

    def outcomes(self, source: Source) -> dict[str, str]:
        """Row -> outcome."""
        return {line.row: line.outcome for line in self.ledger(source)}

    def folder(self, source: Source) -> Path:
        """Its dataset."""
        return self.data / "shards" / source.dataset


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty data folder."""
    return World(tmp_path / "data")


@pytest.fixture
def paint() -> Callable[..., bytes]:
    """`paint(seed, size, kind)`: an encoded image; no two seeds look alike."""
    return picture
