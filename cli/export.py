"""bitgen-export CKPT: a trained model in as few bytes as it was trained for, to run where no torch is."""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy import cpu
from bitgen.deploy.exported import is_exported
from bitgen.deploy.gallery import pictures
from bitgen.deploy.pack import pack, write
from bitgen.deploy.packed import FILE, PackedError, read
from bitgen.deploy.parts import PARTS
from bitgen.deploy.runtime import PictureError, open_picture, squeezed
from bitgen.deploy.tower import calibrate, in_bytes
from bitgen.disk import sync
from bitgen.progress import progress
from bitgen.tokens import VOCABULARY, TokenError, shared_tokenizer
from bitgen.training.checkpoint import STATE, CheckpointError, find, load_model
from bitgen.training.folders import CHECKPOINTS
from cli.arguments import parse, positive
from pipeline.vocabulary import corpora, used_tokens
from shards.format import ShardError
from shards.index import ShardIndex
from shards.root import Root

DESCRIPTION = """Pack a checkpoint: ternary weights in two bits each, the embedding in bytes, the vision tower's adapters merged.
--format onnx adds graphs over the same file, which bitgen-predict runs without torch."""

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        export(options)
    except (CheckpointError, PackedError, ShardError, TokenError, OSError, ValueError) as error:
        print(f"bitgen-export: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"bitgen-export: {error}; --format onnx needs pip install 'bitgen[edge]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-export: stopped; an earlier export is as it was", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-export", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CKPT", help="a run folder, a checkpoint folder, or hf://owner/name")
    parser.add_argument(
        "--format",
        choices=("safetensors", "onnx"),
        default="safetensors",
        help="safetensors: the packed file alone (default); onnx: graphs beside it, which share its weights",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: export, in the folder of the run")
    parser.add_argument(
        "--trim-vocab",
        type=Path,
        metavar="CORPUS",
        help="keep the tokens that a corpus needs: a file with a text a line, a dataset's folder, or a folder that holds shards/",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="IMAGES",
        help="put the vision tower and the heads' matrices into bytes; images of training, a dataset's folder or one of pictures, "
        "decide the ranges",
    )
    parser.add_argument(
        "--calibration-images", type=positive, default=32, metavar="N", help="evenly spaced among them (default: 32)"
    )
    parser.add_argument(
        "--weight-bits",
        choices=("auto", "7", "8"),
        default="auto",
        help="of weights that multiply bytes. 7 for CPUs with neither VNNI (x86) nor dot products (ARM), where products of 8 bits "
        "overflow; auto (default): what the CPU of this machine needs, 7 where that cannot be seen (Windows, macOS on Intel). "
        "Where the file is for another machine, say 7, which is right on any, or 8, if that one has them",
    )
    return parser


def export(options: argparse.Namespace) -> None:
    folder = find(options.checkpoint)
    out = options.out or _default_out(folder, options.checkpoint)
    print(f"packing {folder} as {options.format} into {out}", file=sys.stderr)
    if options.calibrate is not None and not options.calibrate.is_dir():
        raise ValueError(
            f"expected a dataset's folder or one of pictures to calibrate with, found none: {options.calibrate}"
        )
    weight_bits, why = (
        cpu.weight_bits() if options.weight_bits == "auto" else (int(options.weight_bits), "as asked for")
    )
    print(f"weights that multiply bytes get {weight_bits} bits: {why}", file=sys.stderr)
    tokens = None if options.trim_vocab is None else tokens_of(options.trim_vocab)
    if (out / FILE).exists() and not is_exported(out):
        raise ValueError(f"expected a folder without another model, found {FILE} of a checkpoint: {out}")
    model, state = load_model(folder)
    making = out / ".export.tmp"
    shutil.rmtree(making, ignore_errors=True)  # of an export that was killed
    making.mkdir(parents=True)
    try:
        facts = pack(model, state, making / FILE, tokens=tokens, weight_bits=weight_bits)
        if options.calibrate is not None:
            packed = read(making)
            images = calibration_images(options.calibrate, options.calibration_images, facts.image_px)
            with progress("calibrating", options.calibration_images, "images") as counter:
                ranges = calibrate(packed, counted(images, counter.update))
            write(making / FILE, *in_bytes(packed, ranges, weight_bits))
        shutil.copyfile(folder / STATE, making / STATE)  # what it was trained on and kept from: bitgen-eval asks
        if options.format == "onnx":
            from bitgen.deploy.export import export_graphs  # here: the packed file alone needs no onnx

            export_graphs(making)
        written = put_in_place(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    for path in written:
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")
    print(f"{sum(path.stat().st_size for path in written) / 1e6:8.2f} MB  in all")
    rows = facts.config.vocabulary
    print(f"wrote {out}, with {rows:,} of {VOCABULARY:,} tokens" + _next(out, options.format))


def put_in_place(making: Path, out: Path) -> list[Path]:
    """Move a finished export to where an earlier one may be; its model and its graphs there.

    Graphs of the earlier one go first, as they name places in its packed file: who comes in between finds a model without graphs.
    """
    paths = [making / FILE, making / STATE, *sorted(making.glob("*.onnx"))]
    for path in paths:
        sync(path)
    for part in PARTS:
        (out / f"{part}.onnx").unlink(missing_ok=True)
    for path in paths:
        os.replace(path, out / path.name)
    sync(out)
    return [out / path.name for path in paths if path.name != STATE]


def tokens_of(corpus: Path) -> list[int]:
    """The ids that a corpus uses: of the lines of a file, of a dataset, or of all training datasets below a folder.

    Raises `OSError`, `ShardError` and `TokenError` where it cannot be read, `ValueError` where it holds nothing.
    """
    if corpus.is_file():
        tokenizer = shared_tokenizer()
        try:
            with corpus.open(encoding="utf-8-sig") as lines:
                # A word after another one is other tokens than the same at the start: as in a caption, both may come.
                found = {
                    i
                    for line in lines
                    if line.strip()
                    for text in (line.strip(), f" {line.strip()}")
                    for i in tokenizer.ids(text, sys.maxsize)  # all of a long line
                }
        except UnicodeDecodeError as error:
            raise ValueError(f"expected a text a line in UTF-8, found {error}: {corpus}") from error
        if not found:
            raise ValueError(f"expected a text a line, found none: {corpus}")
        return sorted(found)
    if (corpus / "dataset.json").is_file():
        indexes = {corpus.name: ShardIndex.open(corpus)}
    else:
        indexes = corpora(Root(corpus / "shards"), [])
    if not indexes:
        raise ValueError(f"expected a file of texts, a dataset, or a folder that holds shards/, found none: {corpus}")
    return used_tokens(indexes).nonzero().flatten().tolist()


def calibration_images(place: Path, count: int, side_px: int) -> Iterator[NDArray[np.uint8]]:
    """[1, 3, S, S] each: at most `count` images of a dataset or a folder of pictures, evenly spaced.

    A picture that is none is left out with a warning. Raises `PictureError` where none is left, and what reading files and shards
    raises.
    """
    left = 0
    index = ShardIndex.open(place) if (place / "dataset.json").is_file() else None
    paths = list(pictures(place)) if index is None else []
    for i in spaced(len(paths) if index is None else len(index), count):
        try:
            if index is None:
                picture = open_picture(paths[i])
            else:
                sample, stored = index.read(i)
                picture = open_picture(stored, f"{sample.key} of {place}")
        except PictureError as error:
            log.warning("left out: %s", error)
            continue
        left += 1
        yield squeezed(picture, side_px)
    if not left:
        raise PictureError(f"expected images to calibrate with, found none that can be read: {place}")


def spaced(size: int, count: int) -> list[int]:
    """At most `count` of 0 to `size` - 1."""
    return [i * size // count for i in range(count)] if size > count else list(range(size))


def counted(images: Iterable[NDArray[np.uint8]], update: Callable[[int], object]) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        yield image
        update(1)


def _default_out(folder: Path, asked: str) -> Path:
    if folder.parent.name != CHECKPOINTS or asked.startswith("hf://"):
        raise ValueError(f"expected --out FOLDER for a checkpoint that is in no run, found none: {asked}")
    return folder.parents[1] / "export"


def _next(out: Path, kind: str) -> str:
    if kind == "onnx":
        return f"; next: bitgen-predict {out} image.jpg --caption"
    return "; next, for bitgen-predict: --format onnx"


if __name__ == "__main__":
    sys.exit(main())
