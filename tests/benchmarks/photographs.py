"""`make bench BENCH="photos --data FOLDER"`: captions of real photographs, learned from scratch from four fifths of them.

FOLDER holds what there is of COCO and Flickr30k, as these lay it out:

    coco/annotations/captions_{train,val}2017.json    coco/{train,val}2017/*.jpg
    flickr30k/results_20130124.token                  flickr30k/flickr30k-images/*.jpg

The hold-out list is this benchmark's own: of each of the two the fifth whose ids have the lowest sha256, whatever split they
are published in. It is in the manifest that the shards are built under, and in the results. So that the published lists, which
every build keeps to, do not meet it, a photograph has another number here: its own and `OFFSETS`. Nothing that is seen here may
be compared with published figures.

What is made of the photographs lies below WORK and is deleted at the end.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simplejpeg

from bitgen.evaluation.retrieval import TOP
from tests.benchmarks.ablation_arms import flags
from tests.benchmarks.harness import ROOT, BenchError, commit, load, machine, versions, write_results
from tests.benchmarks.learn import COMMON, TOWER, curve

OFFSETS = {"coco": 10_000_000, "flickr": 100_000_000_000}
"""COCO's ids have six digits at most, Flickr's ten."""
SHARE = 5
"""One of so many is held out."""
COCO = (
    ("coco/annotations/captions_train2017.json", "coco/train2017"),
    ("coco/annotations/captions_val2017.json", "coco/val2017"),
)
FLICKR = ("flickr30k/results_20130124.token", "flickr30k/flickr30k-images")
OURS = ("--mixture", "coarse/photos-train", "--optim.batch", "32", "--data.crop-scale-min", "0.5")
MANIFEST = """name = "photos"
licence = "each photograph under its own"

[holdout]
lists = ["held-out.txt"]

[[source]]
name = "photos"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["captions.json"]
images = ["photos"]
links = false

[[source]]
name = "photos"
phase = "coarse"
role = "eval"
split = "test"
reader = "coco"
annotations = ["held-out.json"]
images = ["photos"]
links = false

[[file]]
path = "captions.json"
urls = ["captions.json"]

[[file]]
path = "held-out.json"
urls = ["held-out.json"]

[[file]]
path = "photos"
urls = ["photos"]
"""


@dataclass(frozen=True)
class Photo:
    """A photograph with its captions."""

    id: str
    """As it is published: `coco:139`, `flickr:1000092795`."""
    path: Path
    captions: tuple[str, ...]

    @property
    def number(self) -> int:
        """Its id here."""
        kind, _, number = self.id.partition(":")
        return OFFSETS[kind] + int(number)


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/photos.json`. Raises `BenchError` where the photographs are not there."""
    options = _options(arguments)
    photos = find(options.data)
    held = held_out([photo.id for photo in photos])
    work = options.work.absolute() / "photos"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    load_before = load()
    try:
        write(work / "source", photos, held)
        found, seconds = _run(work, options)
        results = {
            "bench": "photos",
            "input": _input(photos, held, options),
            "machine": machine(),
            "load_before": load_before,
            "commit": commit(),
            "versions": versions(["bitgen", "torch", "transformers", "pillow"]),
            "held_out": {"sha256": _list_sha256(held), "ids": sorted(held)},
            **scores(found),
            "curve": curve(work / f"runs/photos-{options.seeds[0]}"),
            "commands": {n: " ".join(c[2:]) for n, c in stages(Path(), options, options.seeds[:1]).items()},
            "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
        }
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not options.trial:
        print(f"written: {write_results('photos', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "figures", "counts", "seconds")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=photos", description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="the folder that has coco/ and flickr30k/")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trial", action="store_true", help="write no results")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    return parser.parse_args(arguments)


def find(folder: Path) -> list[Photo]:
    """All photographs that have captions and a file, by id. Raises `BenchError` naming what is missing."""
    for name in (*(each for pair in COCO for each in pair), *FLICKR):
        if not (folder / name).exists():
            raise BenchError(
                f"expected photographs and captions of COCO and Flickr30k below --data, found no {name}: {folder}"
            )
    captions: dict[tuple[str, Path], list[str]] = defaultdict(list)
    for annotations, images in COCO:
        for row in json.loads((folder / annotations).read_bytes())["annotations"]:
            path = folder / images / f"{row['image_id']:012d}.jpg"
            captions[f"coco:{row['image_id']}", path].append(row["caption"])
    for line in (folder / FLICKR[0]).read_text(encoding="utf-8").splitlines():
        place, _, caption = line.partition("\t")
        name = place.partition("#")[0]
        captions[f"flickr:{int(Path(name).stem)}", folder / FLICKR[1] / name].append(caption)
    found = [Photo(id, path, tuple(texts)) for (id, path), texts in captions.items() if path.is_file()]
    if not found:
        raise BenchError(f"expected photographs with captions, found none: {folder}")
    return sorted(found, key=lambda photo: photo.number)


def held_out(ids: Iterable[str]) -> frozenset[str]:
    """A fifth of the ids of each kind, rounded: those with the lowest sha256."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        kinds[id.partition(":")[0]].append(id)
    ranked = (sorted(each, key=lambda id: hashlib.sha256(id.encode()).hexdigest()) for each in kinds.values())
    return frozenset(id for each in ranked for id in each[: round(len(each) / SHARE)])


def write(folder: Path, photos: Sequence[Photo], held: frozenset[str]) -> None:
    """Copies of the photographs, their captions as COCO has them, the hold-out list and the manifest.

    The captions to train on are those of all photographs: it is the hold-out rule that takes some off.
    """
    (folder / "photos").mkdir(parents=True)
    for photo in photos:
        shutil.copyfile(photo.path, folder / f"photos/{photo.number:012d}.jpg")
    (folder / "captions.json").write_text(json.dumps(_document(photos)))
    (folder / "held-out.json").write_text(json.dumps(_document([photo for photo in photos if photo.id in held])))
    listed = [f"coco:{photo.number} # {photo.id}" for photo in photos if photo.id in held]
    (folder / "held-out.txt").write_text("\n".join(listed) + "\n")
    (folder / "photos.toml").write_text(MANIFEST)


def _document(photos: Sequence[Photo]) -> dict[str, Any]:
    images, annotations = [], list[dict[str, Any]]()
    for photo in photos:
        height, width, *_ = simplejpeg.decode_jpeg_header(photo.path.read_bytes())
        name = f"{photo.number:012d}.jpg"
        images.append({"id": photo.number, "file_name": name, "width": width, "height": height})
        for caption in photo.captions:
            annotations.append({"id": len(annotations) + 1, "image_id": photo.number, "caption": caption})
    return {"licenses": [], "images": images, "annotations": annotations}


def stages(work: Path, options: argparse.Namespace, seeds: Sequence[int]) -> dict[str, list[str]]:
    """The commands, in order, by what they do."""
    manifest, data, runs = work / "source/photos.toml", work / "data", work / "runs"
    commands: dict[str, list[Any]] = {
        "download": ["download", manifest, "--data", data],
        "shards": ["build_shards", manifest, "--data", data],
    }
    for seed in seeds:
        run = ("--data.root", data, "--run.runs", runs, "--run.name", f"photos-{seed}", "--run.seed", seed)
        words = flags(TOWER, COMMON, OURS, ("--optim.epochs", str(options.epochs)), [str(word) for word in run])
        commands[f"train, seed {seed}"] = ["train", "--phase", "coarse", *words]
        out = ("--out", work / f"found-{seed}.json")
        commands[f"eval, seed {seed}"] = ["evaluate", runs / f"photos-{seed}", "--task", "retrieval", *out]
    return {name: [sys.executable, "-m", f"cli.{cli}", *map(str, rest)] for name, (cli, *rest) in commands.items()}


def _run(work: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What bitgen-eval found, by seed, and the seconds of each stage."""
    seconds: dict[str, float] = {}
    log = work / "log.txt"
    for name, command in stages(work, options, options.seeds).items():
        print(f"{name}: {' '.join(command[2:])}", file=sys.stderr, flush=True)
        began_s = time.perf_counter()
        with log.open("wb") as file:
            code = subprocess.run(command, cwd=ROOT, check=False, stdout=file, stderr=file).returncode
        if code != 0:
            raise BenchError(f"expected {name} to end with 0, found {code}: {log.read_text(errors='replace')[-2000:]}")
        seconds[name] = round(time.perf_counter() - began_s, 1)
    return [json.loads((work / f"found-{seed}.json").read_bytes()) for seed in options.seeds], seconds


def _input(photos: Sequence[Photo], held: frozenset[str], options: argparse.Namespace) -> str:
    counts = {kind: sum(photo.id.startswith(kind) for photo in photos) for kind in OFFSETS}
    return (
        f"{counts['coco']} photographs of COCO and {counts['flickr']} of Flickr30k, most of the latter reduced, with"
        f" {sum(len(photo.captions) for photo in photos):,} captions; {len(held)} of them are held out, by a list of this"
        f" benchmark's own. A tower of random weights, 128 wide, on images of 112 pixels; {options.epochs} epochs; seeds"
        f" {', '.join(map(str, options.seeds))}; means over seeds and, after ±, their standard deviation"
    )


def _list_sha256(held: frozenset[str]) -> str:
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(held)).encode()).hexdigest()


def scores(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`ratios`: held-out recall; `figures`: chance, the trained photographs', and spreads; `counts`; all by name.

    Raises `BenchError` where a held-out photograph was trained on.
    """
    sets = [each["heldout"]["datasets"]["eval/photos-test"] for each in found]
    if seen := sum(each["seen_in_training"] for each in sets):
        raise BenchError(f"expected 0 held-out photographs trained on, found {seen}")
    held = [each["retrieval"] for each in sets]
    trained = [each["train"]["datasets"]["coarse/photos-train"]["retrieval"] for each in found]
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    for way in ("t2i", "i2t"):
        for k in TOP:
            name, values = f"{way}_r{k}", [each[way][f"r{k}"] for each in held]
            ratios[name] = round(statistics.mean(values), 4)
            figures[f"{name}_spread"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
            figures[f"{name}_chance"] = round(held[0]["chance"][way][f"r{k}"], 4)
            figures[f"{name}_trained"] = round(statistics.mean(each[way][f"r{k}"] for each in trained), 4)
            figures[f"{name}_trained_chance"] = round(trained[0]["chance"][way][f"r{k}"], 4)
    counts = {
        "held_out_photographs": held[0]["images"],
        "held_out_captions": held[0]["texts"],
        "trained_photographs": trained[0]["images"],
        "trained_captions": trained[0]["texts"],
    }
    return {"ratios": ratios, "figures": figures, "counts": counts}
