"""What is averaged over sets has intervals, whatever the task."""

import numpy as np
import pytest

from bitgen.evaluation.bootstrap import intervals
from bitgen.evaluation.caption_scores import FIGURES, Cider, Scores, score, words
from bitgen.evaluation.items import Items
from pipeline.measuring import Beside, over_sets

TEXTS = ("a dog runs on the grass", "two cats sleep", "a red tram in a street", "a man rides a horse")


def captions(photographs: list[int], said: list[str]) -> Scores:
    references = [(words(text),) for text in TEXTS]
    keys = [str(each) for each in photographs]
    return score(np.array(photographs), keys, said, references, Cider(references))


def test_captions_of_several_sets_have_an_interval_of_every_figure() -> None:
    right, wrong = captions([1, 2, 3, 4], list(TEXTS)), captions([5, 6, 7, 8], list(reversed(TEXTS)))
    beside = Beside(scores={"eval/a": right, "eval/b": wrong})
    found = over_sets("captioning", {"eval/a": right.means(), "eval/b": wrong.means()}, beside, 1)
    assert list(found["interval"]) == list(FIGURES)
    for name, (low, high) in found["interval"].items():
        assert low <= found[name] + 1e-9
        assert found[name] <= high + 1e-9
    assert found["rouge_l"] == pytest.approx((1 + wrong.means()["rouge_l"]) / 2)


def test_one_set_is_its_own_mean() -> None:
    values = {"acc50": np.array([0.0, 1.0, 1.0])}
    items = Items(("a", "b", "c"), np.array([1, 2, 2]), values)
    entry = {"acc50": 2 / 3, "phrases": 3, "interval": intervals(values, items.photographs)}
    assert over_sets("grounding", {"eval/a": entry}, Beside(items={("eval/a", "grounding"): items}), 0) == entry


def test_accuracy_and_recall_over_sets_have_intervals() -> None:
    items = Items(("a", "b", "c", "d"), np.array([1, 2, 3, 4]), {"acc50": np.array([0.0, 1.0, 1.0, 0.0])})
    sets = ("eval/a", "eval/b")
    found = over_sets(
        "grounding",
        {name: {"acc50": 0.5} for name in sets},
        Beside(items={(name, "grounding"): items for name in sets}),
        0,
    )
    assert found == {"acc50": 0.5, "interval": intervals(items.values, items.photographs, 0)}
    recalled = Items(("a", "b", "c", "d"), items.photographs, {"r1": items.values["acc50"]})
    beside = Beside(items={(name, kind): recalled for name in sets for kind in ("t2i", "i2t")})
    entry = {"t2i": {"r1": 0.5}, "i2t": {"r1": 0.5}, "rsum": 1.0}
    means = over_sets("retrieval", dict.fromkeys(sets, entry), beside, 0)
    assert means["t2i"]["interval"] == intervals(recalled.values, items.photographs, 0)
    assert means["interval"]["rsum"] == pytest.approx([2 * end for end in means["t2i"]["interval"]["r1"]])
