"""bitgen-features: what a frozen vision tower makes of datasets' images, stored beside them, once."""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bitgen.features import FeatureForm
from bitgen.model.dinov2 import VisionError, find_shape
from bitgen.model.vision import VisionTower
from bitgen.training import checkpoint, distributed
from bitgen.training.checkpoint import STATE, CheckpointError
from bitgen.training.config import DataConfig, VisionConfig
from bitgen.training.features import FeatureRecipe
from bitgen.training.folders import CHECKPOINTS, is_pair
from bitgen.training.precision import precision
from cli.arguments import parse, positive
from pipeline.cached import features_place
from pipeline.features import facts, feature_sets, make_features
from pipeline.roots import open_root
from shards.format import NoDatasetError, ShardError
from shards.root import Root

DESCRIPTION = """Store the patch features of a frozen vision tower beside the shards, so that training can read them in place of
images (bitgen-train --cache-features finds and uses them). Run again it goes on where it was stopped, and makes anew what is
not of the images as they are now."""


@dataclass(frozen=True)
class Source:
    """Where a tower is, and what of its features is asked for."""

    name: str
    is_checkpoint: bool
    vision: VisionConfig
    image_px: int


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        source = _source(options)
        root = open_root(DataConfig(root=options.data))
        print(_dry_run(options, source, root) if options.dry_run else _run(options, source, root))
    except (CheckpointError, ShardError, VisionError, OSError, ValueError) as error:
        print(f"bitgen-features: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-features: stopped; the same command goes on", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-features", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "tower",
        metavar="CKPT_OR_TOWER",
        help="a run or checkpoint folder or hf://owner/name; or a DINOv2 as facebook/dinov2-base, or its folder",
    )
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="folders below shards/")
    parser.add_argument("--data", default="data", help="folder or URL that holds shards/ (default: data)")
    parser.add_argument(
        "--dtype",
        choices=("int8", "fp16"),
        default="int8",
        help="int8 with a scale a token (default), or fp16, which takes twice the room",
    )
    parser.add_argument("--image-px", type=positive, help="side of the image (default: the checkpoint's, or 224)")
    parser.add_argument(
        "--feature-layers", type=positive, help="last layers side by side (default: the checkpoint's, or 1)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the tower; auto, as bitgen-train's: bf16 on an accelerator that has it, else fp32",
    )
    parser.add_argument(
        "--workers", type=positive, default=distributed.cores(), help="decoding threads (default: cores)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the size of what would be made, and end")
    return parser


def _source(options: argparse.Namespace) -> Source:
    path = Path(options.tower)
    if options.tower.startswith("hf://") or (path / STATE).is_file() or _is_run(path):
        config = checkpoint.read_state(checkpoint.find(options.tower)).config
        if options.feature_layers not in (None, config.model.vision.feature_layers):
            found = f"--feature-layers {options.feature_layers}"
            raise ValueError(f"expected the checkpoint's {config.model.vision.feature_layers}, found {found}")
        return Source(options.tower, True, config.model.vision, options.image_px or config.data.image_px)
    vision = VisionConfig(model=options.tower, mode="frozen", feature_layers=options.feature_layers or 1)
    return Source(options.tower, False, vision, options.image_px or DataConfig().image_px)


def _is_run(path: Path) -> bool:
    """Whether `checkpoint.find` knows the path: a run's folder, that of two in a row, or the name of a checkpoint in it."""
    return (path / CHECKPOINTS).is_dir() or is_pair(path) or path.parent.name == CHECKPOINTS


def _dry_run(options: argparse.Namespace, source: Source, root: Root) -> str:
    """What each dataset would take, as text; needs neither weights nor shards."""
    if source.is_checkpoint:
        shape = checkpoint.read_state(checkpoint.find(source.name)).vision
    else:
        shape = find_shape(source.name)
    patches = (source.image_px // shape["patch_size"]) ** 2
    form = FeatureForm(patches, shape["hidden_size"] * source.vision.feature_layers, options.dtype)
    lines = []
    for name in options.datasets:
        try:
            images = sum(root.shard_sizes(name))
            size = f"{images:,} images x {form.size_bytes / 1e3:,.0f} KB = {images * form.size_bytes / 1e9:,.2f} GB"
        except NoDatasetError:
            size = f"{form.size_bytes / 1e3:,.0f} KB an image; the dataset is not built yet"
        lines.append(f"features of {name}: {size}: {features_place(DataConfig(root=options.data), root)}")
    return "\n".join(lines)


def _run(options: argparse.Namespace, source: Source, root: Root) -> str:
    """Makes the features; returns the last lines: what was made, and what to run next."""
    device = _device(options.device)
    indexes = {name: root.open(name) for name in options.datasets}
    tower = _tower(source).to(device).eval()
    if source.image_px % tower.patch_px:
        raise ValueError(
            f"expected --image-px to be a multiple of the patch, {tower.patch_px}, found {source.image_px}"
        )
    recipe = FeatureRecipe.of(tower, source.image_px, options.dtype, precision(options.precision, device))
    sets = feature_sets(indexes, features_place(DataConfig(root=options.data), root), recipe)
    make_features(sets, tower, options.workers)
    root.close()
    lines = [f"{facts(each)}: {each.folder}" for each in sets.values()]
    return "\n".join([*lines, f"next: {_next(options, source)}"])


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected an accelerator for --device cuda, found none")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _tower(source: Source) -> VisionTower:
    if source.is_checkpoint:
        return checkpoint.load_model(source.name)[0].vision
    return VisionTower(source.name, "frozen", feature_layers=source.vision.feature_layers)


def _next(options: argparse.Namespace, source: Source) -> str:
    command = ["bitgen-train", "--mixture", *options.datasets]
    if source.is_checkpoint:
        command += ["--init", source.name]
    elif source.name != VisionConfig().model:
        command += ["--model.vision.model", source.name]
    if not source.is_checkpoint and source.vision.feature_layers != VisionConfig().feature_layers:
        command += ["--model.vision.feature-layers", str(source.vision.feature_layers)]
    if options.precision != "auto":
        command += ["--run.precision", options.precision]
    if options.data != DataConfig().root:
        command += ["--data.root", options.data]
    if source.image_px != DataConfig().image_px:
        command += ["--data.image-px", str(source.image_px)]
    command += ["--cache-features"] if options.dtype == "int8" else ["--data.features", options.dtype]
    return shlex.join(command)


if __name__ == "__main__":
    sys.exit(main())
