"""`make bench BENCH=learn`: what is learned of a drawn world, from no weights at all, through the ordinary commands.

A world of scenes (`pipeline/shapes.py`) is drawn, downloaded and put into shards; a small tower and all that stands on it
are trained, coarse then fine; and what comes of it is asked about scenes that it never saw, in templates that it never
read. One seed, one run, and the last checkpoint of it: nothing is chosen by what it scores.

Every scene of a test set has a twin in it that differs in one attribute of one thing, or has two colours changed. Colour and
shape of what a caption says are compared with those of the scene, as multisets of pairs. The phrases of unseen pairs of
colour and shape are compared with the phrases of one pair a scene, chosen by chance, of scenes without unseen ones; what is
asked about in an unseen scene always has something beside it that differs in one attribute, there not always.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitgen import BitGen
from bitgen.evaluation.curves import read_log
from pipeline.drawing.captions import CAPTIONS
from pipeline.shapes import MANIFEST, pairs
from shards.index import ShardIndex
from tests.benchmarks.harness import ROOT, BenchError, commit, load, machine, versions, write_results

TOWER = (
    *("--trim-vocabulary", "--model.vision.weights", "random", "--model.vision.mode", "full"),
    *("--model.vision.random-width", "128", "--model.vision.random-heads", "4", "--model.vision.random-layers", "4"),
    *("--model.compressor-width", "128"),
)
"""8 x 8 patches of 14 pixels through 4 layers of 128; nothing of it is pretrained, so all of it trains."""
COMMON = (
    *("--data.image-px", "112", "--data.crop-scale-min", "1", "--data.max-tokens", "32", "--data.texts-per-image", "2"),
    *("--optim.accumulation", "1", "--optim.lr", "1e-3", "--optim.warmup-steps", "100", "--optim.gate-lr-scale", "10"),
    *("--loss.queue", "0"),
    *("--run.validate-every", "0", "--run.log-every", "20", "--run.checkpoint-every", "1000000"),
)
COARSE = ("--mixture", "coarse/shapes-train", "--optim.batch", "32", "--loss.text", "1")
FINE = (
    *("--mixture", "fine/shapes-described-train", "fine/shapes-grounded-train"),
    # Captions keep contrast and the decoder going and have a phrase for each thing, but are soon grounded without a fault:
    # sentences, whose words are as few as will do, take longer. More of them than captions, and captions begin like them.
    *("--data.mixture.fine/shapes-described-train", "3", "--data.mixture.fine/shapes-grounded-train", "2"),
    # Small batches: as many images a second as by 32, and more is learned of each.
    *("--optim.batch", "16", "--optim.lr-final", "0.01"),
    # Without the words, the tower is still taught hardly a shape when the run ends: colours answer nearly all that is asked.
    *("--loss.itc", "0.25", "--loss.text", "2", "--loss.words", "4"),
)
CAPTION_TOKENS = 64
_IMAGES = 50


def main(arguments: list[str]) -> int:
    """Runs it all and writes `results/learn.json`."""
    options = _options(arguments)
    work = options.work.absolute() / "learn"
    if not options.go_on:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    note = work / "note.json"
    done = (
        json.loads(note.read_bytes()) if note.is_file() else {"load_before": load(), "commit": commit(), "seconds": {}}
    )
    for name, command in stages(work, options).items():
        if name not in done["seconds"]:
            began_s = time.perf_counter()
            _call(name, command, work / "log.txt")
            done["seconds"][name] = round(time.perf_counter() - began_s, 1)
            note.write_text(json.dumps(done))
    began_s, said = time.perf_counter(), {}
    for split in ("shapes-test", "shapes-unseen-test"):
        said[split] = caption_scores(work / "runs/fine", work / "data/shards/eval" / split)
    seconds = {**done["seconds"], "captions": round(time.perf_counter() - began_s, 1)}
    found = json.loads((work / "results.json").read_bytes())["heldout"]["datasets"]
    check_sets(found, options.test)
    trained = json.loads((work / "data/shards/coarse/shapes-train/dataset.json").read_bytes())["samples"]
    results = {
        "bench": "learn",
        "input": f"{trained:,} drawn scenes of 4 things to train on, each with {CAPTIONS} captions and some eight sentences; "
        f"{options.test} to test on, all of them in pairs of twins and said in other templates, and as many with pairs of colour "
        f"and shape that were never trained on. A tower of random weights, 128 wide; texts are cut at 32 tokens; one run of "
        f"seed {options.seed}, its flags chosen on this very world",
        "machine": machine(),
        "load_before": done["load_before"],
        "commit": done["commit"],
        "versions": versions(["bitgen", "torch", "transformers", "pillow"]),
        "commands": {name: " ".join(map(str, command[2:])) for name, command in stages(Path(), options).items()},
        "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
        **scores(found, said),
        "curves": {phase: curve(work / "runs" / phase) for phase in ("coarse", "fine")},
    }
    print(f"written: {write_results('learn', results).relative_to(ROOT)}", file=sys.stderr)
    print(json.dumps({name: results[name] for name in ("ratios", "figures", "seconds")}, indent=1))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=learn", description=__doc__, allow_abbrev=False)
    parser.add_argument("--train", type=int, default=20_000, help="scenes to train on")
    parser.add_argument("--test", type=int, default=500, help="scenes of each test set")
    parser.add_argument("--coarse-epochs", type=int, default=1)
    parser.add_argument("--fine-epochs", type=int, default=6, help="of as many draws as there are scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="with what an earlier run that was stopped has done")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="a folder to work in")
    return parser.parse_args(arguments)


def stages(work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands, in order, by what they do."""
    world, data, runs = work / "world", work / "data", work / "runs"
    run = ("--data.root", data, "--run.runs", runs, "--run.seed", options.seed)
    commands = {
        "draw": (
            "shapes",
            world,
            "--train",
            options.train,
            "--test",
            options.test,
            "--objects",
            4,
            "--seed",
            options.seed,
        ),
        "download": ("download", world / MANIFEST, "--data", data),
        "shards": ("build_shards", world / MANIFEST, "--data", data),
        "coarse": (
            "train",
            "--phase",
            "coarse",
            *TOWER,
            *COARSE,
            *COMMON,
            "--optim.epochs",
            options.coarse_epochs,
            *run,
        ),
        "fine": (
            *("train", "--phase", "fine", "--init", runs / "coarse", *FINE, *COMMON),
            *("--data.samples-per-epoch", options.train, "--optim.epochs", options.fine_epochs, *run),
        ),
        "eval": ("evaluate", runs / "fine", "--split", "heldout", "--out", work / "results.json"),
    }
    return {name: [sys.executable, "-m", f"cli.{cli}", *map(str, rest)] for name, (cli, *rest) in commands.items()}


def _call(name: str, command: Sequence[str], log: Path) -> None:
    print(f"{name}: {' '.join(command[2:])}", file=sys.stderr, flush=True)
    with log.open("ab") as file:
        start = file.tell()
        code = subprocess.run(command, cwd=ROOT, check=False, stdout=file, stderr=file).returncode
    if code != 0:
        said = log.read_bytes()[start:].decode(errors="replace")
        raise BenchError(f"expected {name} to end with 0, found {code}: {said[-2000:]}")


def caption_scores(run: Path, dataset: Path) -> dict[str, Any]:
    """F1 of the (colour, shape) pairs in the captions of a dataset's images; and, as a control, of the captions of others."""
    model, index = BitGen.from_pretrained(run), ShardIndex.open(dataset)
    wanted: list[Counter[Any]] = []
    said: list[str] = []
    for start in range(0, len(index), _IMAGES):
        read = [index.read(i) for i in range(start, min(start + _IMAGES, len(index)))]
        wanted += [pairs(sample.texts[0].text) for sample, _ in read]
        said += model.caption([image for _, image in read], max_tokens=CAPTION_TOKENS)
    found = [pairs(text) for text in said]
    half = len(found) // 2  # a scene's twin stands beside it
    return {
        "f1": f1(found, wanted),
        "shuffled_f1": f1(found[half:] + found[:half], wanted),
        "examples": [(text, index.read(i)[0].texts[0].text) for i, text in enumerate(said[:4])],
    }


def f1(found: Sequence[Counter[Any]], wanted: Sequence[Counter[Any]]) -> float:
    """2 x right / (found + wanted), over all scenes together: what is said twice and is there once is right once."""
    right = sum((mine & theirs).total() for mine, theirs in zip(found, wanted, strict=True))
    return 2 * right / sum(each.total() for each in (*found, *wanted))


def check_sets(sets: Mapping[str, Any], scenes: int) -> None:
    """Raises `BenchError` where a test set is not whole, or shares a scene with what was trained on."""
    for name, found in sets.items():
        if "-val" not in name and (found["evaluated"], found["seen_in_training"]) != (scenes, 0):
            counts = f"{found['evaluated']} and {found['seen_in_training']}"
            raise BenchError(f"expected {scenes} scenes evaluated, 0 of them trained on, found {counts}: {name}")


def scores(sets: Mapping[str, Any], said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`ratios`, `figures` and `examples` of the results; `said` are the `caption_scores` of both sets of scenes."""
    captions, unseen_captions = said["shapes-test"], said["shapes-unseen-test"]
    grounding, retrieval = sets["eval/shapes-grounded-test"]["grounding"], sets["eval/shapes-test"]["retrieval"]
    seen, unseen = (sets[f"eval/shapes-{name}-grounded-test"]["grounding"] for name in ("seen", "unseen"))
    other = sets["eval/shapes-unseen-test"]["retrieval"]
    ratios = {
        "grounding_acc50": grounding["acc50"],
        "grounding_shuffled_acc50": grounding["controls"]["shuffled_text"]["acc50"],
        "retrieval_t2i_r1": retrieval["t2i"]["r1"],
        "retrieval_i2t_r1": retrieval["i2t"]["r1"],
        "caption_attribute_f1": captions["f1"],
        "caption_shuffled_f1": captions["shuffled_f1"],
        "unseen_combination_drop": 100 * (seen["acc50"] - unseen["acc50"]),
    }
    figures = {
        "grounding_acc75": grounding["acc75"],
        "grounding_mean_iou": grounding["mean_iou"],
        "grounding_pointing": grounding["pointing"],
        "grounding_constant_box_acc50": grounding["controls"]["constant_box"]["acc50"],
        "phrases": grounding["phrases"],
        "grounding_seen_acc50": seen["acc50"],
        "grounding_unseen_acc50": unseen["acc50"],
        "retrieval_chance_t2i_r1": retrieval["chance"]["t2i"]["r1"],
        "retrieval_chance_i2t_r1": retrieval["chance"]["i2t"]["r1"],
        "retrieval_t2i_r5": retrieval["t2i"]["r5"],
        "retrieval_i2t_r5": retrieval["i2t"]["r5"],
        "retrieval_unseen_t2i_r1": other["t2i"]["r1"],
        "retrieval_unseen_i2t_r1": other["i2t"]["r1"],
        "caption_unseen_attribute_f1": unseen_captions["f1"],
        "caption_unseen_shuffled_f1": unseen_captions["shuffled_f1"],
    }
    rounded = {
        part: {k: round(v, 4) for k, v in each.items()} for part, each in (("ratios", ratios), ("figures", figures))
    }
    return {**rounded, "examples": captions["examples"]}


def curve(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, about 60 of them, with the losses and what the fusion gates are."""
    lines = [line for line in read_log(run.name, run / "metrics.jsonl").lines if "loss" in line]
    kept = lines[:: max(1, len(lines) // 60)]
    kept += lines[-1:] if kept[-1:] != lines[-1:] else []
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()} for line in kept]
