"""Other loaders over the same JPEGs, each as its own documentation sets it up, and each with our decoder.

All give batches of 64 images as uint8 [B, 3, 224, 224] of the whole image and a caption of each, shuffled, by two
workers where ours has two threads. None is asked for boxes, for more than a text or for a mixture: that favours them.
Where the documentation ends in floats (`ToTensor`), the integers are handed on instead, which is faster; where it crops
or resizes with another filter, Pillow's antialiased bicubic takes its place.

    python -m tests.benchmarks.loader_peers NAME FOLDER

writes the format that the peer reads from a folder of `loader_data`, in the peer's environment and outside the time.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from tests.benchmarks.loader_terms import BATCH, SOURCES, Start, decode_and_resize, documented, resize


@dataclass(frozen=True)
class Peer:
    """Another loader."""

    requirement: str
    """For pip; empty where it is BitGen's own dependency."""
    documentation: str
    start: Callable[[Path, int, bool], Start]
    """From a folder of `loader_data`, how many workers, and whether it decodes as ours does."""
    convert: Callable[[Path], None] | None = None
    """Writes its own format."""


def read_captions(root: Path) -> list[tuple[Path, str]]:
    """Every photograph's file and a caption of it, in order of the files' names."""
    captions = json.loads((root / "captions.json").read_bytes())
    return sorted((root / f"photos/all/{key}.jpg", text) for key, text in captions)


def webdataset(root: Path, workers: int, our_decode: bool) -> Start:
    """README's `WebDataset(url).shuffle().decode("pil").to_tuple()`, `map(preprocess)` and `batched`, in a DataLoader."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    shards = [str(path) for name in SOURCES for path in sorted((root / "shards" / name).glob("*.tar"))]

    def preprocess(sample: tuple[Any, dict[str, Any]]) -> tuple[Tensor, str]:
        image, record = sample
        return (image if our_decode else documented()(image)), record["texts"][0]["text"]

    def start() -> Iterator[tuple[int, Tensor]]:
        # README: "usually, pick something bigger, like 1000", and a shuffle of 100 for the shards.
        dataset = wds.WebDataset(shards, shardshuffle=100).shuffle(1000)
        dataset = dataset.decode(wds.handle_extension("jpg", decode_and_resize) if our_decode else "pil")
        dataset = dataset.to_tuple("jpg", "json").map(preprocess).batched(BATCH)
        for images, _ in DataLoader(dataset, batch_size=None, num_workers=workers):
            yield len(images), images

    return start


def streaming(root: Path, workers: int, our_decode: bool) -> Start:
    """A subclass of StreamingDataset whose `__getitem__` transforms, in a DataLoader; images as `jpeg` or as `bytes`."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Photographs(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            image = found["image"]
            return (decode_and_resize(image) if our_decode else documented()(image.convert("RGB"))), found["caption"]

    def start() -> Iterator[tuple[int, Tensor]]:
        folder = root / ("mds-bytes" if our_decode else "mds-jpeg")
        dataset = Photographs(local=str(folder), shuffle=True, batch_size=BATCH)
        for images, _ in DataLoader(dataset, batch_size=BATCH, num_workers=workers):
            yield len(images), images

    return start


def convert_streaming(root: Path) -> None:
    """Its writer keeps the bytes of an image that Pillow opened from a JPEG file."""
    from streaming import MDSWriter

    for name, kind in (("mds-jpeg", "jpeg"), ("mds-bytes", "bytes")):
        with MDSWriter(out=str(root / name), columns={"image": kind, "caption": "str"}) as out:
            for path, caption in read_captions(root):
                image = path.read_bytes() if kind == "bytes" else Image.open(path)
                out.write({"image": image, "caption": caption})


def litdata(root: Path, workers: int, our_decode: bool) -> Start:
    """StreamingDataset in its StreamingDataLoader; its `Image` is decoded by torchvision, so torchvision resizes it."""
    from litdata import StreamingDataLoader, StreamingDataset

    def transform(found: dict[str, Any]) -> tuple[Tensor, str]:
        return (decode_and_resize if our_decode else resize())(found["image"]), found["caption"]

    def start() -> Iterator[tuple[int, Tensor]]:
        folder = root / ("litdata-bytes" if our_decode else "litdata-image")
        dataset = StreamingDataset(str(folder), shuffle=True, transform=transform)
        for images, _ in StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers):
            yield len(images), images

    return start


def _litdata_image(row: tuple[str, str]) -> dict[str, Any]:
    import litdata

    return {"image": litdata.Image(path=row[0]), "caption": row[1]}


def _litdata_bytes(row: tuple[str, str]) -> dict[str, Any]:
    return {"image": Path(row[0]).read_bytes(), "caption": row[1]}


def convert_litdata(root: Path) -> None:
    """Images as its README says to keep existing files, and, for our decoder, as bytes."""
    import litdata

    rows = [(str(path), caption) for path, caption in read_captions(root)]
    for name, row in (("litdata-image", _litdata_image), ("litdata-bytes", _litdata_bytes)):
        litdata.optimize(fn=row, inputs=rows, output_dir=str(root / name), chunk_bytes="64MB", num_workers=1)


def datasets(root: Path, workers: int, our_decode: bool) -> Start:
    """A map-style Dataset with `set_transform` in a DataLoader; images as its Image feature, decoded or not."""
    from datasets import Image as ImageFeature
    from datasets import load_from_disk
    from torch.utils.data import DataLoader

    def transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if our_decode:
            images = [decode_and_resize(image["bytes"]) for image in rows["image"]]
        else:
            images = [documented()(image.convert("RGB")) for image in rows["image"]]
        return {"image": images, "caption": rows["caption"]}

    def start() -> Iterator[tuple[int, Tensor]]:
        dataset: Any = load_from_disk(str(root / "arrow"))
        if our_decode:
            dataset = dataset.cast_column("image", ImageFeature(decode=False))
        dataset.set_transform(transform)
        for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers):
            yield len(batch["image"]), batch["image"]

    return start


def convert_datasets(root: Path) -> None:
    """Arrow files that hold the JPEGs."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    def rows() -> Iterator[dict[str, Any]]:
        for path, caption in read_captions(root):
            yield {"image": {"bytes": path.read_bytes(), "path": None}, "caption": caption}

    features = Features({"image": ImageFeature(), "caption": Value("string")})
    made: Any = Dataset.from_generator(rows, features=features, cache_dir=str(root / "arrow-cache"))
    made.save_to_disk(str(root / "arrow"))


def image_folder(root: Path, workers: int, our_decode: bool) -> Start:
    """torchvision's ImageFolder over files, with its own loader (Pillow) or ours, in a DataLoader; a label each."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    def load(path: str) -> Tensor:
        return decode_and_resize(Path(path).read_bytes())

    def start() -> Iterator[tuple[int, Tensor]]:
        folder = str(root / "photos")
        dataset = ImageFolder(folder, loader=load) if our_decode else ImageFolder(folder, documented())
        for images, _ in DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers):
            yield len(images), images

    return start


PEERS = {
    "webdataset": Peer("webdataset==1.0.2", "https://github.com/webdataset/webdataset#readme", webdataset),
    "streaming": Peer(
        "mosaicml-streaming==0.13.0",
        "https://docs.mosaicml.com/projects/streaming/en/stable/getting_started/quick_start.html",
        streaming,
        convert_streaming,
    ),
    "litdata": Peer("litdata==0.2.76", "https://github.com/Lightning-AI/litData#readme", litdata, convert_litdata),
    "datasets": Peer(
        "datasets==5.2.0", "https://huggingface.co/docs/datasets/use_with_pytorch", datasets, convert_datasets
    ),
    "image_folder": Peer(
        "", "https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html", image_folder
    ),
}

if __name__ == "__main__":
    convert = PEERS[sys.argv[1]].convert
    if convert is not None:
        convert(Path(sys.argv[2]))
