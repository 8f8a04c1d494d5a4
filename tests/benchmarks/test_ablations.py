"""Which commands the arms are, how they are compared, what is asked of a memory, and what the page says of it."""

import argparse
import json
import random
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitgen import BitGen
from bitgen.model.dinov2 import load_stock
from bitgen.training.checkpoint import load_model
from bitgen.training.config import TrainConfig
from cli.curriculum import parse
from pipeline.shapes import HELD_OUT
from tests import fakes
from tests.benchmarks import ablation_report, ablations, stock_folder
from tests.benchmarks.ablation_arms import ARMS, Places, Stage, arm_stages, flags, tower_stages
from tests.benchmarks.ablation_asked import SHOTS, naming, one_thing
from tests.benchmarks.ablation_clip import Words, scale_of_rate
from tests.benchmarks.ablation_scores import CLAIMS, MEANINGS, claimed, curve_means, figures, means, verdict
from tests.benchmarks.harness import BenchError
from tests.runs import run_config, write_run

PLACES = Places(Path("w"))
TIMED = {"coarse_only, seed 3: coarse": 12.5}


def options(*words: str) -> argparse.Namespace:
    return ablations._options(["--images", "9000", *words])


def configured(stage: Stage) -> TrainConfig:
    """What bitgen-train would run; the model of an earlier run left out."""
    words = list(stage.command[3:])
    if "--init" in words:
        at = words.index("--init")
        del words[at : at + 2]
    return parse(words)[1][0]


def stages(name: str) -> dict[str, Stage]:
    """Of seed 3, by what they do."""
    found = arm_stages(PLACES, name, 3, options(), TIMED, Path("python-of-clip"))
    return {stage.name.rpartition(": ")[2]: stage for stage in found}


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if not arm.clip_batch])
def test_every_arm_draws_as_many_images(name: str):
    trained = {phase: stage for phase, stage in stages(name).items() if phase in ("coarse", "fine")}
    if ARMS[name].coarse_of:
        trained |= {"coarse": stages(ARMS[name].coarse_of)["coarse"]}
        assert str(trained["coarse"].makes) in trained["fine"].command
    configs = [configured(stage) for stage in trained.values()]
    assert sum(config.data.samples_per_epoch * config.optim.epochs for config in configs) == 9000
    assert {config.run.seed for config in configs} == {3}
    assert {config.optim.batch * config.optim.accumulation for config in configs} == {32}


def test_arms_differ_from_base_in_what_they_are_called_after():
    coarse = {name: configured(stages(name)["coarse"]) for name in ("base", "concat", "full_precision", "memory_off")}
    assert (coarse["base"].model.fusion, coarse["concat"].model.fusion) == ("gated", "concat")
    assert (coarse["base"].model.ternary, coarse["full_precision"].model.ternary) == (True, False)
    assert coarse["memory_off"].loss.episode_share == 0 < coarse["base"].loss.episode_share
    assert configured(stages("memory_off")["fine"]).loss.episode_share == 0
    assert configured(stages("no_region")["fine"]).loss.region == 0 < configured(stages("base")["fine"]).loss.region
    assert configured(stages("no_words")["fine"]).loss.words == 0 < configured(stages("base")["fine"]).loss.words
    alone = {name: configured(stages(name)["coarse"]) for name in ("coarse_only", "coarse_queue", "contrast_only")}
    assert (alone["coarse_only"].loss.queue, alone["coarse_queue"].loss.queue) == (0, 4096)
    assert (alone["contrast_only"].loss.itm, alone["contrast_only"].loss.text) == (0, 0)
    for name, share in (("lora_warmup", 0.2), ("lora_no_warmup", 0)):
        config = configured(stages(name)["coarse"])
        vision = config.model.vision
        assert (vision.weights, vision.mode, vision.model) == ("stock", "lora", str(PLACES.tower))
        assert config.optim.lora_warmup_epochs == share


def test_the_tower_learns_in_another_world():
    tower = {stage.name.rpartition(": ")[2]: stage for stage in tower_stages(PLACES, options())}
    drawn, seed = tower["draw"].command, stages("base")["coarse"]
    assert drawn[drawn.index("--seed") + 1] != str(options().seed_of_world)
    assert configured(tower["coarse"]).data.root != configured(seed).data.root
    assert configured(tower["coarse"]).model.vision.mode == "full"
    assert tower["save"].makes == PLACES.tower


def test_open_clip_has_the_time_that_the_coarse_arm_took():
    assert stages("open_clip")["all"].command[-3:] == ("12.5", "128", "3")
    with pytest.raises(BenchError, match="expected coarse_only among the arms before open_clip"):
        arm_stages(PLACES, "open_clip", 4, options(), TIMED, Path("python"))


def test_of_a_flag_that_stands_twice_the_last_counts():
    assert flags(["--a", "1", "--b", "2", "3"], ["--switch"], ["--a", "4"]) == ["--a", "4", "--b", "2", "3", "--switch"]


def test_an_arm_without_what_it_starts_from_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        options("--arms", "no_region", "open_clip")
    assert "expected base, coarse_only among --arms" in capsys.readouterr().err


def making(folder: Path, more: str = "") -> Stage:
    """Fails where the folder is there already."""
    return Stage("made", (sys.executable, "-c", f"import os; os.mkdir({str(folder)!r}){more}"), folder)


def test_what_is_done_is_not_done_again_and_what_was_stopped_starts_clean(tmp_path: Path):
    work, made, asked = tmp_path / "work", tmp_path / "made", options()
    with pytest.raises(BenchError, match=r"(?s)expected made to end with 0, found 1.*ZeroDivisionError"):
        ablations.Note(work, asked).do([making(made, "; 1 / 0")])
    assert made.is_dir()
    ablations.Note(work, asked).do([making(made)])
    note = ablations.Note(work, asked)
    note.do([making(made, "; 1 / 0")])
    assert list(note.seconds) == ["made"]
    with pytest.raises(BenchError, match=r"expected to go on with .*9000.* found .*8000"):
        ablations.Note(work, options("--images", "8000"))


@pytest.mark.parametrize(
    ("differences", "as_good", "wanted"),
    [
        ([0.1, 0.12, 0.11], False, "held"),
        ([-0.1, -0.12, -0.11], False, "not held"),
        ([-0.1, -0.12, -0.11], True, "not held"),
        ([0.1, 0.12, -0.01], False, "not told apart"),
        ([0.1, 0.12, -0.01], True, "held"),
        ([0.01, 0.3, 0.02], False, "not told apart"),  # mean 0.11, twice the standard error 0.19
        ([0.5], False, "not told apart"),
        ([0.5], True, "not told apart"),
        ([0.0, 0.0], False, "not told apart"),
    ],
)
def test_a_claim_holds_where_all_seeds_agree_by_more_than_their_spread(
    differences: list[float], as_good: bool, wanted: str
):
    assert verdict(differences, as_good) == wanted


def test_arms_are_compared_seed_by_seed():
    base, other = {0: {"acc50": 0.5, "mean_iou": 0.4}, 1: {"acc50": 0.9}}, {1: {"acc50": 0.7}, 2: {"acc50": 0.1}}
    found = claimed({"base": base, "fine_only": other})["curriculum"]
    assert set(found) == {"acc50"}
    assert (found["acc50"]["difference"], found["acc50"]["seeds"]) == (0.2, 1)


def test_figures_of_one_arm_are_compared_with_each_other():
    base = {seed: {"naming_1": 0.5 + seed / 10, "naming_1_cache": 0.4} for seed in (0, 1)}
    found = claimed({"base": base})["memory"]["naming_1"]
    assert (found["difference"], found["spread"]) == (0.15, pytest.approx(0.0707, abs=1e-4))


def test_the_spread_is_that_between_seeds():
    assert means([{"a": 1.0}, {"a": 3.0}]) == {"mean": {"a": 2}, "spread": {"a": 1.4142}}
    assert means([{"a": 1.0}]) == {"mean": {"a": 1}, "spread": {"a": 0}}


def test_open_clip_finds_the_end_of_a_text_by_the_highest_number():
    known = {"a": [7, 3, 9, 0], "b": [7, 5, 3, 9], "new": [7, 4, 9, 0]}
    words = Words(lambda texts: torch.tensor([known[text] for text in texts]), ["a", "b"])
    # 0 pads, 3, 5, 7 begins, unseen, 9 ends
    assert words(["a", "b", "new"]).tolist() == [[3, 1, 5, 0], [3, 2, 1, 5], [3, 4, 5, 0]]
    assert words.count == 6


def test_the_rate_of_open_clip_rises_and_falls():
    assert [scale_of_rate(share) for share in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_things_to_be_named_are_alone_and_whole():
    one, other = (one_thing(("red", "circle"), random.Random(seed), 112) for seed in (0, 1))
    assert one.size == (112, 112)
    assert one.tobytes() != other.tobytes()
    frame = [one.getpixel((x, y)) for x in range(112) for y in (0, 111)]
    assert all(min(pixel) > 180 for pixel in frame)


def test_names_are_counted_beside_controls():
    torch.manual_seed(0)
    model = BitGen(fakes.model(), fakes.SIDE)
    found = naming(model, sorted(HELD_OUT)[:4])
    assert set(found) == {str(shots) for shots in SHOTS}
    assert {each["chance"] for each in found.values()} == {0.25}
    assert all(0 <= value <= 1 for each in found.values() for value in each.values())
    # A random tower tells colours apart: keys do what a memory's controls cannot.
    assert found["16"]["nearest"] > 0.5 > found["16"]["empty"]
    assert found["16"]["shuffled"] < found["16"]["recall"]


def test_the_folder_of_a_tower_gives_its_features(tmp_path: Path):
    config = run_config(tmp_path, tmp_path / "runs")
    run = write_run(replace(config, model=replace(config.model, vision=replace(config.model.vision, mode="full"))))
    stock_folder.write(run, tmp_path / "tower")
    assert json.loads((tmp_path / "tower/config.json").read_bytes())["model_type"] == "dinov2"
    mine, pixels = load_model(run)[0].vision.backbone, torch.rand(1, 3, 28, 28)
    with torch.inference_mode():
        states = [
            model.eval()(pixel_values=pixels).last_hidden_state for model in (mine, load_stock(str(tmp_path / "tower")))
        ]
    assert torch.equal(*states)


def test_a_tower_under_adapters_is_not_saved_as_a_stock_one(tmp_path: Path):
    with pytest.raises(BenchError, match="expected a tower trained in mode full, found lora"):
        stock_folder.write(write_run(run_config(tmp_path, tmp_path / "runs")), tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


EVALUATED = {
    "parameters": 1000,
    "heldout": {
        "datasets": {
            "eval/shapes-test": {"retrieval": {"t2i": {"r1": 0.6}, "i2t": {"r1": 0.5}}},
            "eval/shapes-grounded-test": {
                "grounding": {
                    "acc50": 0.4,
                    "mean_iou": 0.45,
                    "pointing": 0.7,
                    "controls": {"shuffled_text": {"acc50": 0.1}},
                }
            },
        }
    },
}
RECALLED = dict.fromkeys(ablation_report.CURVES["recall"], 0.5)
NAMED = {str(shots): dict.fromkeys(ablation_report.CURVES["naming"], 0.25) for shots in SHOTS}
ASKED = {
    "captions": {"f1": 0.3, "shuffled_f1": 0.1},
    "recall": {kind: {"4": RECALLED, "8": RECALLED} for kind in ("own", "other")},
    "naming": {"unseen": NAMED, "seen": NAMED},
}


def test_every_figure_has_a_meaning():
    found = figures({"eval": EVALUATED, "asked": ASKED})
    assert set(found) <= set(MEANINGS)
    assert (found["t2i_r1"], found["acc50"], found["naming_16_cache"]) == (0.6, 0.4, 0.25)
    named = {part for claim in CLAIMS.values() for figure in claim.figures for part in figure.split("/")}
    assert named <= set(found)
    assert {arm for claim in CLAIMS.values() for arm in (claim.first, claim.second)} <= set(ARMS)


def test_the_page_has_every_claim_and_curves_that_are_whole_svg():
    of_seeds = {seed: figures({"eval": EVALUATED, "asked": ASKED}) | {"images_per_s": 90.0} for seed in (0, 1)}
    by_arm = {name: of_seeds for name, arm in ARMS.items() if not arm.clip_batch}
    losses = [{"step": step, "giou": 1 / step, "l1": 0.5} for step in (1, 2, 3)]
    found = {
        "claims": claimed(by_arm),
        "arms": {name: {"what": ARMS[name].what, **means(list(seeds.values()))} for name, seeds in by_arm.items()},
        "recall": {"base": {kind: curve_means([each, each]) for kind, each in ASKED["recall"].items()}},
        "naming": {"base": {kind: curve_means([NAMED]) for kind in ("unseen", "seen")}},
        "curves": {"base": {"coarse": [{"step": 7}], "fine": losses}, "fine_only": {"fine": losses}},
        "commands": {"base, seed 0: coarse": "cli.train"},
        "seconds": {"base, seed 0: coarse": 300.0, "all": 300.0},
        "documentation": {"open_clip": "https://example.org"},
    }
    page = "\n".join(ablation_report.lines(found))
    assert all(f"**{CLAIMS[name].said}**" in page for name in found["claims"])
    assert "| 0.600 ± 0.000 | 0.600 ± 0.000 | +0.000 ± 0.000 | 2 | not told apart |" in page
    drawn = ET.fromstring(ablation_report.plot(found))
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 4 + 4 + 4 + 2 * 2
    dots = ET.fromstring(ablation_report.differences(found)).findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == sum(map(len, found["claims"].values()))
