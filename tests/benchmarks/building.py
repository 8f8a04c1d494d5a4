"""Building shards of the same photographs: ours, webdataset's own writer, a bare JPEG decode, plain tar."""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.benchmarks import photos
from tests.benchmarks.harness import ROOT, BenchError, Contestant, Run, as_lists, in_turn, medians, ratios, timed

PER_SHARD = 1000
BITGEN_SHARDS = (sys.executable, "-m", "cli.build_shards")
MANIFEST = """name = "bench"
licence = "CC BY"

[[source]]
name = "bench"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["captions.json"]
images = ["photos"]
samples_per_shard = {per_shard}
"""


def build(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Two rounds: what looks at every byte, and, on more photographs since it is faster, what looks at headers."""
    help_ = subprocess.run([*BITGEN_SHARDS, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rounds = {"whole": (options.count, {"webdataset_writer": "ours", "bare_decode": "ours"})}
    if "--check" in help_:
        rounds["header"] = (options.header_count, {"tar": "ours_header"})
    else:
        print("left out: tar, since this bitgen-shards has no --check header", file=sys.stderr)
    found: dict[str, Any] = {"ratios": {}, "ratios_apart_from_start": {}, "medians": {}, "runs": {}}
    for name, (count, theirs) in rounds.items():
        # Beside the whole, what starting costs each: the same with a photograph or two for each process.
        runs = {
            part: _build_round(work / name / part, options, photographs, per_shard, theirs)
            for part, photographs, per_shard in (("all", count, PER_SHARD), ("start", 2 * options.processes, 1))
        }
        shutil.rmtree(work / name)
        middle = medians(runs["all"], runs["start"], count)
        pairs = {their: (our, their) for their, our in theirs.items()}
        found["ratios"] |= ratios(middle, pairs, "images_per_s")
        found["ratios_apart_from_start"] |= ratios(middle, pairs, "images_per_s_apart")
        found["medians"] |= {f"build_{each}": median for each, median in middle.items()}
        for part in runs:
            found["runs"] |= {f"build_{part}_{each}": listed for each, listed in as_lists(runs[part]).items()}
    return found


def _build_round(
    work: Path, options: argparse.Namespace, count: int, per_shard: int, theirs: dict[str, str]
) -> dict[str, list[Run]]:
    photos.write_coco(photos.find(options.images), work / "data/raw/bench", count)
    (work / "bench.toml").write_text(MANIFEST.format(per_shard=per_shard))
    photos.warm(work)
    builders = _builders(work, count, per_shard, options.processes)
    wanted = [builders[name] for name in dict.fromkeys([*theirs.values(), *theirs])]
    found = in_turn(wanted, options.repetitions, work / "log.txt", uncounted=1)
    if "webdataset_writer" in theirs:
        _check_same_work(builders["ours"], builders["webdataset_writer"], work, work / "log.txt")
    shutil.rmtree(work)
    return found


def _builders(work: Path, count: int, per_shard: int, processes: int) -> dict[str, Contestant]:
    raw, shards, out = work / "data/raw/bench", work / "data/shards", work / "out"

    def clear() -> None:
        for folder in (shards, out):
            shutil.rmtree(folder, ignore_errors=True)
        out.mkdir()

    def check() -> None:
        found = json.loads((shards / "coarse/bench-train/dataset.json").read_bytes())["samples"]
        if found != count:
            raise BenchError(f"expected {count} samples, found {found}")

    ours = [
        *BITGEN_SHARDS,
        str(work / "bench.toml"),
        "--data",
        str(work / "data"),
        "--workers",
        str(processes),
    ]
    peer = [sys.executable, "-m", "tests.benchmarks.peers"]
    parts = [(str(part), str(processes)) for part in range(processes)]
    found = [
        Contestant("ours", [ours], clear, check),
        Contestant(
            "webdataset_writer", [[*peer, "webdataset", str(raw), str(out), *p, str(per_shard)] for p in parts], clear
        ),
        Contestant("bare_decode", [[*peer, "bare_decode", str(raw), *p] for p in parts], clear),
        Contestant("ours_header", [[*ours, "--check", "header"]], clear, check),
        Contestant("tar", [["tar", "-cf", str(out / "photos.tar"), "-C", str(raw / "photos"), "."]], clear),
    ]
    return {contestant.name: contestant for contestant in found}


def _check_same_work(ours: Contestant, peer: Contestant, work: Path, log: Path) -> None:
    """Raises `BenchError` unless webdataset's shards hold the samples that ours do: the same images and records."""
    timed(ours, log)
    wanted = _members(work / "data/shards/coarse/bench-train")
    timed(peer, log)
    found = _members(work / "out")
    if wanted != found:
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise BenchError(f"expected the same members of both writers, found others: {different[:4]}")


def _members(folder: Path) -> dict[str, int]:
    """A hash of every member of all tars: of an image's bytes, of what a record says."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = (tar.extractfile(member) or io.BytesIO()).read()
                if member.name.endswith(".json"):
                    content = json.dumps(json.loads(content), sort_keys=True).encode()
                found[member.name] = hash(content)
    return found
