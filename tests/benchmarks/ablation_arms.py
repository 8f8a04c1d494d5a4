"""What the arms of `make bench BENCH=ablations` are, and the commands that each is made of.

Every arm is `base` but for what stands in `ARMS`: flags of bitgen-train, which replace those of `learn.py`. An arm draws as
many images as `base` does, in as many steps; where it has both phases, a third of them in the coarse one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pipeline.shapes import MANIFEST
from tests.benchmarks.harness import BenchError
from tests.benchmarks.learn import COARSE, COMMON, FINE, TOWER

COARSE_SHARE = 1 / 3
"""Of the images of an arm with both phases."""
TOWER_SEED = 1_000_003
"""Of the world that the stock tower of the LoRA arms learned in: no scene of it is in the others' world."""
LORA = ("--model.vision.weights", "stock", "--model.vision.model", "{tower}", "--model.vision.mode", "lora")
BATCH = "32"
"""In both phases, so that as many images are as many steps."""
WARMUP_SHARE = "0.2"
"""Of the coarse phase, as 5 epochs of 25 are."""
CLIP = "open_clip_torch==3.3.0"
CLIP_DOCUMENTATION = "https://github.com/mlfoundations/open_clip#training-clip"
TIMED_BY = "coarse_only"
"""The arm whose time open_clip is given."""


@dataclass(frozen=True)
class Arm:
    """One way to train, and what is asked of it."""

    what: str
    model: tuple[str, ...] = ()
    """Flags of its first run, which give the model's shape."""
    coarse: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("coarse", "fine")
    coarse_of: str = ""
    """The arm whose coarse run it goes on from, where it has none of its own."""
    clip_batch: int = 0
    """Of open_clip, where that is trained in the model's place."""


ARMS: dict[str, Arm] = {
    "base": Arm("coarse, then fine, with the flags of `BENCH=learn`, in batches of 32"),
    "fine_only": Arm("as many steps, all of them fine", phases=("fine",)),
    "concat": Arm("self-attention over the states of both sides", model=("--model.fusion", "concat")),
    "full_precision": Arm("no ternary layers", model=("--model.no-ternary",)),
    "memory_off": Arm(
        "no episode is ever written or recalled",
        coarse=("--loss.episode-share", "0"),
        fine=("--loss.episode-share", "0"),
    ),
    "no_region": Arm("no region-phrase contrast", fine=("--loss.region", "0"), coarse_of="base"),
    "no_words": Arm("no words told from regions", fine=("--loss.words", "0"), coarse_of="base"),
    "lora_warmup": Arm(
        "adapters on a tower trained in another world, frozen for a fifth of the coarse phase",
        model=(*LORA, "--optim.lora-warmup-epochs", WARMUP_SHARE),
    ),
    "lora_no_warmup": Arm(
        "adapters on the same tower, trained from the first step",
        model=(*LORA, "--optim.lora-warmup-epochs", "0"),
    ),
    "coarse_only": Arm("as many steps, all of them coarse", phases=("coarse",)),
    "contrast_only": Arm(
        "coarse, with image-text contrast as its only loss",
        coarse=("--loss.itm", "0", "--loss.text", "0"),
        phases=("coarse",),
    ),
    "coarse_queue": Arm(
        "coarse, with a queue of 4,096, the default", coarse=("--loss.queue", "4096"), phases=("coarse",)
    ),
    "open_clip": Arm("open_clip's CLIP for as long as coarse_only took, in batches of 128", clip_batch=128),
    "open_clip_32": Arm("likewise, in batches of 32 as ours", clip_batch=32),
}


@dataclass(frozen=True)
class Stage:
    """A command, and what it makes: that is removed where the command was stopped and is run again."""

    name: str
    command: tuple[str, ...]
    makes: Path


@dataclass(frozen=True)
class Places:
    """Where things lie below the folder that the benchmark works in."""

    work: Path

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def tower(self) -> Path:
        """A folder as DINOv2 is published."""
        return self.work / "tower"

    def run(self, seed: int, arm: str, phase: str) -> Path:
        return self.work / f"runs/seed-{seed}" / f"{arm}-{phase}"

    def found(self, seed: int, arm: str, kind: str) -> Path:
        """A JSON file."""
        return self.work / f"found/seed-{seed}" / f"{arm}-{kind}.json"


def world_stages(places: Places, options: argparse.Namespace) -> list[Stage]:
    """The world that all arms see."""
    return _world("world", places.work / "world", places.data, options.seed_of_world, options)


def tower_stages(places: Places, options: argparse.Namespace) -> list[Stage]:
    """A tower trained in `full` mode, in a world of its own, and saved as the published ones are."""
    data, runs = places.work / "tower-data", places.work / "tower-runs"
    stages = _world("tower", places.work / "tower-world", data, TOWER_SEED, options)
    stages += _runs("tower", ARMS["base"], "tower", runs, data, 0, options)
    save = ("tests.benchmarks.stock_folder", str(runs / "tower-fine"), str(places.tower))
    return [*stages, Stage("tower: save", _python(*save), places.tower)]


def arm_stages(
    places: Places, name: str, seed: int, options: argparse.Namespace, seconds: Mapping[str, float], clip: Path
) -> list[Stage]:
    """Training and asking of one arm; `seconds` by the names of stages that are done, `clip` the Python that has open_clip."""
    arm, label = ARMS[name], f"{name}, seed {seed}"
    if arm.clip_batch:
        timed_by = f"{TIMED_BY}, seed {seed}: coarse"
        if timed_by not in seconds:
            raise BenchError(f"expected {TIMED_BY} among the arms before {name}, whose time it is given, found it not")
        out = places.found(seed, name, "clip")
        words = (str(places.data), str(out), str(seconds[timed_by]), str(arm.clip_batch), str(seed))
        return [Stage(f"{label}: all", (str(clip), "-m", "tests.benchmarks.ablation_clip", *words), out)]
    runs = places.run(seed, name, "").parent
    stages = _runs(label, arm, name, runs, places.data, seed, options, places.tower)
    last, found = places.run(seed, name, arm.phases[-1]), places.found(seed, name, "eval")
    tasks = ("retrieval", "grounding") if "fine" in arm.phases else ("retrieval",)
    asked = places.found(seed, name, "asked")
    evaluate = ("cli.evaluate", str(last), "--split", "heldout", "--task", *tasks, "--out", str(found))
    ask = ("tests.benchmarks.ablation_asked", str(last), str(places.data / "shards/eval/shapes-test"), str(asked))
    return [
        *stages,
        Stage(f"{label}: eval", _python(*evaluate), found),
        Stage(f"{label}: asked", _python(*ask), asked),
    ]


def images_of(phase: str, arm: Arm, images: int) -> int:
    """How many images a phase of an arm draws."""
    if len(arm.phases) == 1:
        return images
    coarse = round(COARSE_SHARE * images)
    return coarse if phase == "coarse" else images - coarse


def flags(*groups: Sequence[str]) -> list[str]:
    """The words of all groups; of a flag that stands in several the last counts."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in chain.from_iterable(groups):
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found[name].append(word)
    return [word for name, values in found.items() for word in (name, *values)]


def _world(label: str, world: Path, data: Path, seed: int, options: argparse.Namespace) -> list[Stage]:
    counts = ("--train", str(options.train), "--val", "2", "--test", str(options.test))
    manifest = str(world / MANIFEST)
    draw = ("cli.shapes", str(world), *counts, "--objects", *map(str, options.objects), "--seed", str(seed))
    return [
        Stage(f"{label}: draw", _python(*draw), world),
        Stage(f"{label}: download", _python("cli.download", manifest, "--data", str(data)), data),
        Stage(f"{label}: shards", _python("cli.build_shards", manifest, "--data", str(data)), data / "shards"),
    ]


def _runs(
    label: str,
    arm: Arm,
    name: str,
    runs: Path,
    data: Path,
    seed: int,
    options: argparse.Namespace,
    tower: Path | None = None,
) -> list[Stage]:
    """Its phases, one after the other, each from the one before."""
    stages: list[Stage] = []
    of_phase = {"coarse": (COARSE, arm.coarse), "fine": (FINE, arm.fine)}
    for phase in arm.phases:
        if phase == "coarse" and arm.coarse_of:
            continue
        draws = ("--data.samples-per-epoch", str(images_of(phase, arm, options.images)), "--optim.epochs", "1")
        place = ("--data.root", str(data), "--run.runs", str(runs), "--run.name", f"{name}-{phase}")
        first = "coarse" if "coarse" in arm.phases else phase
        if phase == first:
            start = flags(TOWER, _with_tower(arm.model, tower))
        else:
            start = ["--init", str(runs / f"{arm.coarse_of or name}-{first}")]
        mixture, own = of_phase[phase]
        # In this order: the mixture names the flags that set its weights, and a flag of the arm replaces a common one.
        words = flags(start, mixture, COMMON, ("--optim.batch", BATCH), draws, own, place, ("--run.seed", str(seed)))
        stages.append(
            Stage(f"{label}: {phase}", _python("cli.train", "--phase", phase, *words), runs / f"{name}-{phase}")
        )
    return stages


def _with_tower(words: Sequence[str], tower: Path | None) -> list[str]:
    return [str(tower) if word == "{tower}" else word for word in words]


def _python(module: str, *words: str) -> tuple[str, ...]:
    return sys.executable, "-m", module, *words
