"""What is shown of a memory: a figure for all that was found, each also as PNG."""

from bitgen.evaluation.memory_figures import memory_figures
from bitgen.evaluation.page import share
from bitgen.evaluation.raster import png
from bitgen.evaluation.recall import evaluate_memory
from tests import fakes

PHOTOGRAPHS = 30


def test_everything_that_was_found_is_shown() -> None:
    batches = [fakes.fake_batch(images=15, position=15 * n, seed=n) for n in range(PHOTOGRAPHS // 15)]
    found = evaluate_memory(fakes.model(), batches, reads=60, resamples=20)
    figures = memory_figures(found)
    assert set(figures) == {
        "memory-recall-other",
        "memory-recall-own",
        "memory-novelty",
        "memory-naming-5",
        "memory-forgetting",
        "memory-slots",
    }
    assert figures["memory-recall-other"].count("<polyline") == 6
    assert f"percent of {found['naming']['5']['asked']:,}; the line: chance" in figures["memory-naming-5"]
    assert figures["memory-slots"].count("<title>") == 4 * found["slot_use"]["episodes"]
    assert f"0, 1: {share(found['slot_use']['shares'][0][0])}</title>" in figures["memory-slots"]
    assert all(png(figure).startswith(b"\x89PNG") for figure in figures.values())


def test_of_few_photographs_there_is_less_to_show() -> None:
    figures = memory_figures(evaluate_memory(fakes.model(), [fakes.fake_batch(images=6)], reads=20, resamples=20))
    assert set(figures) == {
        "memory-recall-other",
        "memory-recall-own",
        "memory-novelty",
        "memory-forgetting",
        "memory-slots",
    }
