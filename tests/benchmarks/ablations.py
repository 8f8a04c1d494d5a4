"""`make bench BENCH=ablations`: what each part of the design is worth, in a drawn world, at equal cost.

Every arm trains from no pretrained weights on the same scenes, in as many steps as the others, once for each seed, through the
ordinary commands; its last checkpoint is asked about held-out scenes. Arms of a claim are compared seed by seed: one seed
shows the same scenes in the same order, where the mixture is the same. open_clip is given the time that the coarse arm took.
An arm takes five minutes on two cores at 90 images a second.

What was done by a run that was stopped is not done again with `--go-on`, whatever arms and seeds it is then asked for.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import environments
from tests.benchmarks.ablation_arms import (
    ARMS,
    CLIP,
    CLIP_DOCUMENTATION,
    TIMED_BY,
    Places,
    Stage,
    arm_stages,
    images_of,
    tower_stages,
    world_stages,
)
from tests.benchmarks.ablation_scores import claimed, curve_means, figures, means
from tests.benchmarks.harness import ROOT, BenchError, commit, load, machine, versions, write_results
from tests.benchmarks.learn import check_sets, curve

FIXED = ("images", "train", "test", "objects", "seed_of_world")
"""Options that a run which goes on has to share with the one that began."""


class Note:
    """What is done, and how long it took; written after every stage."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        """Raises `BenchError` where another run with other options has begun in `work`."""
        self._path, self._log = work / "note.json", work / "log.txt"
        asked = {name: getattr(options, name) for name in FIXED}
        if self._path.is_file():
            self.fields: dict[str, Any] = json.loads(self._path.read_bytes())
            if self.fields["options"] != asked:
                raise BenchError(f"expected to go on with {self.fields['options']}, found {asked}: {self._path}")
        else:
            work.mkdir(parents=True, exist_ok=True)
            self.fields = {"load_before": load(), "commit": commit(), "options": asked, "seconds": {}}

    @property
    def seconds(self) -> dict[str, float]:
        """Of every stage that is done."""
        return self.fields["seconds"]

    def do(self, stages: Sequence[Stage]) -> None:
        """Those of the stages that are not done. Raises `BenchError` where one fails."""
        for stage in (stage for stage in stages if stage.name not in self.seconds):
            print(f"{stage.name}: {' '.join(stage.command[2:])}", file=sys.stderr, flush=True)
            shutil.rmtree(stage.makes, ignore_errors=True)
            stage.makes.parent.mkdir(parents=True, exist_ok=True)
            began_s = time.perf_counter()
            with self._log.open("ab") as file:
                start = file.tell()
                code = subprocess.run(stage.command, cwd=ROOT, check=False, stdout=file, stderr=file).returncode
            if code != 0:
                said = self._log.read_bytes()[start:].decode(errors="replace")
                raise BenchError(f"expected {stage.name} to end with 0, found {code}: {said[-2000:]}")
            self.seconds[stage.name] = round(time.perf_counter() - began_s, 1)
            self._path.write_text(json.dumps(self.fields))


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/ablations.json`, anew after every arm."""
    options = _options(arguments)
    work = options.work.absolute() / "ablations"
    clip = Path(sys.executable)
    if any(ARMS[name].clip_batch for name in options.arms):
        clip = environments.prepare(options.work.absolute() / "peers" / "open_clip", [CLIP])
    if not options.go_on:
        shutil.rmtree(work, ignore_errors=True)
    note, places = Note(work, options), Places(work)
    note.do(world_stages(places, options))
    if any("{tower}" in ARMS[name].model for name in options.arms):
        note.do(tower_stages(places, options))
    results: dict[str, Any] = {}
    for seed in options.seeds:
        for name in options.arms:
            note.do(arm_stages(places, name, seed, options, note.seconds, clip))
            results = collect(places, note, options)
            if not options.trial:
                write_results("ablations", results)
    print(json.dumps({name: results[name] for name in ("ratios", "claims")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=ablations", description=__doc__, allow_abbrev=False)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=27_000, help="drawn by each arm: 5 minutes at 90 a second")
    parser.add_argument("--train", type=int, default=10_000, help="scenes to train on")
    parser.add_argument("--test", type=int, default=300, help="scenes of each test set")
    parser.add_argument("--objects", type=int, nargs="+", default=[4], help="things in a scene")
    parser.add_argument("--seed-of-world", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="with what an earlier run that was stopped has done")
    parser.add_argument("--trial", action="store_true", help="write no results")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    options = parser.parse_args(arguments)
    # In the order of `ARMS`: some need what others have made.
    options.arms = [name for name in ARMS if name in options.arms]
    lacking = sorted({need for name in options.arms for need in _needs(name)} - set(options.arms))
    if lacking:
        parser.error(f"expected {', '.join(lacking)} among --arms, which others start from, found {options.arms}")
    return options


def _needs(name: str) -> list[str]:
    """Arms that have to be done before this one."""
    arm = ARMS[name]
    return [arm.coarse_of] * bool(arm.coarse_of) + [TIMED_BY] * bool(arm.clip_batch)


def collect(places: Places, note: Note, options: argparse.Namespace) -> dict[str, Any]:
    """The results of what is done so far."""
    by_arm: dict[str, dict[int, dict[str, float]]] = {}
    asked: dict[str, list[Mapping[str, Any]]] = {}
    curves: dict[str, Any] = {}
    for name in options.arms:
        for seed in options.seeds:
            files = {kind: places.found(seed, name, kind) for kind in ("eval", "asked", "clip")}
            found = {kind: json.loads(path.read_bytes()) for kind, path in files.items() if path.is_file()}
            if not ({"eval", "asked"} <= set(found) or "clip" in found):
                continue
            if "eval" in found:
                check_sets(found["eval"]["heldout"]["datasets"], options.test)
                asked.setdefault(name, []).append(found["asked"])
            seconds = {key: value for key, value in note.seconds.items() if key.startswith(f"{name}, seed {seed}: ")}
            by_arm.setdefault(name, {})[seed] = figures(found) | _speed(name, seed, seconds, options.images)
            if name not in curves and "eval" in found:
                runs = [(phase, places.run(seed, _runner(name, phase), phase)) for phase in ARMS[name].phases]
                curves[name] = {phase: curve(run) for phase, run in runs}
    claims = claimed(by_arm)
    return {
        "bench": "ablations",
        "input": f"{options.train:,} drawn scenes of {' or '.join(map(str, options.objects))} things to train on, {options.test}"
        f" to test on; {options.images:,} images an arm, in batches of 32; seeds {', '.join(map(str, options.seeds))}; of"
        " each figure the mean over seeds and, after ±, their standard deviation",
        "machine": machine(),
        "load_before": note.fields["load_before"],
        "commit": note.fields["commit"],
        "versions": versions(["bitgen", "torch", "transformers", "peft"])
        | {CLIP.partition("==")[0]: CLIP.partition("==")[2]},
        "documentation": {"open_clip": CLIP_DOCUMENTATION},
        "ratios": {
            f"{name}_{figure}": each["difference"] for name, rows in claims.items() for figure, each in rows.items()
        },
        "claims": claims,
        "arms": {
            name: {
                "what": ARMS[name].what,
                **means(list(seeds.values())),
                "seeds": {str(s): f for s, f in seeds.items()},
            }
            for name, seeds in by_arm.items()
        },
        **{part: {name: _by_kind(found, part) for name, found in asked.items()} for part in ("recall", "naming")},
        "curves": curves,
        "commands": {s.name: _said(s, places) for s in _first_stages(places, note, options)},
        "seconds": note.seconds | {"all": round(sum(note.seconds.values()), 1)},
    }


def _by_kind(found: Sequence[Mapping[str, Any]], part: str) -> dict[str, Any]:
    """Curves over seeds, by what was asked."""
    return {kind: curve_means([each[part][kind] for each in found]) for kind in found[0][part]}


def _runner(name: str, phase: str) -> str:
    """The arm whose run this phase of an arm is."""
    return ARMS[name].coarse_of if phase == "coarse" and ARMS[name].coarse_of else name


def _speed(name: str, seed: int, seconds: Mapping[str, float], images: int) -> dict[str, float]:
    """Images a second of the training commands, from start to end."""
    arm = ARMS[name]
    took = {phase: seconds.get(f"{name}, seed {seed}: {phase}") for phase in arm.phases}
    known = {phase: s for phase, s in took.items() if s}
    if arm.clip_batch or not known:
        return {}
    return {"images_per_s": sum(images_of(phase, arm, images) for phase in known) / sum(known.values())}


def _first_stages(places: Places, note: Note, options: argparse.Namespace) -> list[Stage]:
    """Of everything once: the world, the tower, and each arm with the first seed."""
    stages = world_stages(places, options) + tower_stages(places, options)
    for name in options.arms:
        stages += arm_stages(
            places, name, options.seeds[0], options, _timed(note, options.seeds[0]), Path(sys.executable)
        )
    return [stage for stage in stages if stage.name in note.seconds]


def _timed(note: Note, seed: int) -> dict[str, float]:
    return {f"{TIMED_BY}, seed {seed}: coarse": 0.0} | note.seconds


def _said(stage: Stage, places: Places) -> str:
    return " ".join(stage.command[2:]).replace(f"{places.work}/", "")
