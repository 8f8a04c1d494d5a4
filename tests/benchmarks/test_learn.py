"""What is scored of the drawn world, and what the page says of it."""

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from cli.curriculum import parse
from tests.benchmarks import learn, learn_report
from tests.benchmarks.harness import BenchError


def test_f1_counts_what_is_said_twice_once():
    red, blue = ("red", "circle"), ("blue", "star")
    assert learn.f1([Counter([red, blue])], [Counter([red, blue])]) == 1
    assert learn.f1([Counter([red, red])], [Counter([red, blue])]) == 0.5
    assert learn.f1([Counter()], [Counter([red, blue])]) == 0
    # 3 right of 4 + 3
    found = [Counter([red, blue]), Counter([red, red])]
    assert learn.f1(found, [Counter([red, blue]), Counter([red])]) == pytest.approx(6 / 7)


def test_the_commands_are_those_of_a_user():
    stages = learn.stages(Path("w"), learn._options(["--seed", "3"]))
    assert list(stages) == ["draw", "download", "shards", "coarse", "fine", "eval"]
    options, [config] = parse(stages["coarse"][3:])
    fine = stages["fine"][3:]
    at = fine.index("--init")
    _, [grounding] = parse(fine[:at] + fine[at + 2 :])
    assert grounding.data.mixture == {"fine/shapes-described-train": 3.0, "fine/shapes-grounded-train": 2.0}
    assert options.trim_vocabulary
    assert config.model.ternary
    assert config.model.vision.mode == "full"
    assert (config.run.seed, config.data.image_px, config.run.name) == (3, 112, "coarse")
    assert set(config.data.mixture) == {"coarse/shapes-train"}


def grounding(acc50: float) -> dict:
    figures = {"acc50": acc50, "acc75": 0.5, "mean_iou": 0.6, "pointing": 0.7, "phrases": 100}
    return {**figures, "controls": {name: {"acc50": 0.1} for name in ("shuffled_text", "constant_box")}}


def retrieval(r1: float) -> dict:
    each = {name: {"r1": r1, "r5": 0.9} for name in ("t2i", "i2t")}
    return {**each, "chance": each}


SETS = {
    "eval/shapes-grounded-test": {"grounding": grounding(0.8)},
    "eval/shapes-seen-grounded-test": {"grounding": grounding(0.85)},
    "eval/shapes-unseen-grounded-test": {"grounding": grounding(0.8)},
    "eval/shapes-test": {"retrieval": retrieval(0.6)},
    "eval/shapes-unseen-test": {"retrieval": retrieval(0.4)},
}


SAID = {
    name: {"f1": 0.9, "shuffled_f1": 0.2, "examples": [("a red circle", "a blue star")]}
    for name in ("shapes-test", "shapes-unseen-test")
}


@pytest.mark.parametrize(("evaluated", "seen"), [(3, 0), (4, 1)])
def test_a_test_set_that_is_not_whole_or_was_trained_on_is_refused(evaluated: int, seen: int):
    learn.check_sets({"eval/shapes-test": {"evaluated": 4, "seen_in_training": 0}}, 4)
    with pytest.raises(
        BenchError, match=f"expected 4 scenes evaluated, 0 of them trained on, found {evaluated} and {seen}"
    ):
        learn.check_sets({"eval/shapes-test": {"evaluated": evaluated, "seen_in_training": seen}}, 4)


def test_the_drop_is_in_points_from_seen_to_unseen():
    scores = learn.scores(SETS, SAID)
    assert scores["ratios"]["unseen_combination_drop"] == 5
    assert scores["ratios"]["grounding_acc50"] == 0.8
    assert scores["figures"]["retrieval_unseen_t2i_r1"] == 0.4


def test_the_page_has_every_ratio_and_curves_that_are_whole_svg():
    scores = learn.scores(SETS, SAID)
    lines = [{"step": step, "itc": 4 / step, "gate_text_0": 0.0} for step in (1, 2, 3)]
    found = {**scores, "seconds": {"draw": 1.0}, "commands": {"draw": "cli.shapes w"}}
    found["curves"] = {"coarse": lines, "fine": lines}
    page = "\n".join(learn_report.lines(found))
    assert all(f"| {name} | {scores['ratios'][name]} |" in page for name in learn_report.RATIOS)
    assert set(learn_report.RATIOS) == set(scores["ratios"])
    drawn = ET.fromstring(learn_report.curves(found))
    assert [text for text in drawn.itertext() if text == "Image-text contrast"]
    assert drawn.findall(".//{http://www.w3.org/2000/svg}polyline")
