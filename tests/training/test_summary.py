"""What a run will be: exact counts of the stock model, and the text that says them."""

from dataclasses import replace
from typing import Any

import pytest

from bitgen.objectives.total import Objective
from bitgen.training import summary
from bitgen.training.phases import Phase, Preset, configure
from bitgen.training.schedule import Schedule
from bitgen.training.summary import Part, count_parameters, format_parameters
from tests import fakes


@pytest.fixture(scope="module")
def stock() -> Objective:
    """The coarse phase on DINOv2-base, without its weights."""
    return summary.build_shape(configure("coarse", "base"))


def _table(objective: Objective) -> dict[str, tuple[int, int, int]]:
    return {part.name: (part.frozen, part.lora, part.trained) for part in count_parameters(objective)}


def test_the_stock_model_has_the_documented_counts(stock: Objective) -> None:
    table = _table(stock)
    assert table["vision tower (DINOv2)"] == (86_580_480, 589_824, 0)
    assert table["compressor"] == (0, 0, 344_832)
    assert table["token embedding (tied with the decoder's head)"] == (0, 0, 6_432_896)


def test_the_sum_is_that_of_all_parameters(stock: Objective) -> None:
    counted = sum(sum(row) for row in _table(stock).values())
    assert counted == sum(p.numel() for p in stock.model.parameters())


@pytest.mark.parametrize("phase", ["coarse", "fine"])
def test_the_trained_column_is_what_trains_after_the_thaw(phase: Phase) -> None:
    objective = fakes.objective(fakes.config(phase))
    table = _table(objective).values()
    assert sum(row[1] + row[2] for row in table) == sum(p.numel() for p in objective.parameters() if p.requires_grad)


@pytest.mark.parametrize(("phase", "untrained"), [("coarse", "grounding head"), ("fine", "matching head")])
def test_what_a_phase_does_not_train_is_frozen(phase: Phase, untrained: str) -> None:
    frozen, lora, trained = _table(fakes.objective(fakes.config(phase)))[untrained]
    assert frozen > 0
    assert (lora, trained) == (0, 0)


def test_every_part_of_the_model_has_parameters(stock: Objective) -> None:
    assert [name for name, row in _table(stock).items() if sum(row) == 0] == []


def test_the_table_ends_with_the_sum() -> None:
    lines = format_parameters([Part("a", 1000, 2, 30), Part("b", 0, 40, 5)]).splitlines()
    assert [line.split() for line in lines] == [
        ["part", "frozen", "LoRA", "trained"],
        ["a", "1,000", "2", "30"],
        ["b", "0", "40", "5"],
        ["sum", "1,000", "42", "35"],
    ]


def test_sizes_weights_and_shares_of_the_mixture_are_named() -> None:
    config = fakes.config(data={"mixture": {"coarse/a": 1.0, "coarse/b": 2.0, "coarse/c": 1.0, "coarse/d": 0.0}})
    sizes = {"coarse/a": 6000, "coarse/b": 1000, "coarse/c": 0, "coarse/d": 5}
    text = summary.format_run(config, sizes, {"coarse/a": 0.75, "coarse/b": 0.25}, Schedule.of(config, 70), 70)
    assert [line.split() for line in text.splitlines()[:5]] == [
        ["data", "mixture"],
        ["coarse/a", "6,000", "samples", "weight", "1", "75.0%", "of", "draws"],
        ["coarse/b", "1,000", "samples", "weight", "2", "25.0%", "of", "draws"],
        ["coarse/c", "0", "samples", "weight", "1", "not", "built", "yet"],
        ["coarse/d", "5", "samples", "weight", "0", "0.0%", "of", "draws"],
    ]


def test_a_power_of_the_sizes_is_named() -> None:
    config = fakes.config(data={"mixture": {"coarse/a": 1.0}, "size_power": 0.3})
    text = summary.format_run(config, {"coarse/a": 20}, {"coarse/a": 1.0}, Schedule.of(config, 20), 20)
    assert text.splitlines()[0] == "data mixture by weight x samples ** 0.3"


def test_steps_and_the_thaw_are_named() -> None:
    config = fakes.config(data={"mixture": {"coarse/a": 1.0}}, optim={"epochs": 3, "accumulation": 2})
    text = summary.format_run(config, {"coarse/a": 20}, {"coarse/a": 1.0}, Schedule.of(config, 20), 20)
    assert text.splitlines()[2:] == [
        "epochs 3 x 20 draws = 9 steps of 8 images (4 x 2 micro-steps)",
        "LoRA adapters thaw at step 3",
    ]


def test_a_mixture_that_is_not_built_has_no_steps() -> None:
    config = fakes.config(data={"mixture": {"coarse/a": 1.0}})
    text = summary.format_run(config, {"coarse/a": 0}, {}, Schedule.of(config, 0), 0)
    assert "not built yet" in text
    assert "steps of" not in text


def test_weights_gradients_and_moments_are_counted_to_the_byte() -> None:
    config = fakes.config()
    objective = fakes.objective(config)
    count_parameters(objective)
    estimate = summary.estimate_memory(config, objective, ranks=1)
    assert estimate["weights"] == 4 * sum(p.numel() for p in objective.parameters())
    assert estimate["gradients and moments"] == 12 * sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert estimate["queue"] == sum(b.nbytes for b in (objective.queue.images, objective.queue.texts))


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, 2),
        ({"lora_layers": 1}, 1),
        ({"mode": "full", "lora_layers": 1}, 2),
        ({"mode": "frozen"}, 0),
    ],
)
def test_the_towers_activations_are_those_of_the_layers_that_the_backward_pass_reaches(
    changes: dict[str, Any], layers: int
) -> None:
    config = fakes.config(model={"vision": replace(fakes.VISION, **changes)})
    objective = fakes.objective(config)
    count_parameters(objective)
    images, patches, width = 4, 16, 32
    estimate = summary.estimate_memory(config, objective, ranks=1)
    assert estimate["vision activations"] == images * ((patches + 1) * layers * 68 + patches * 4) * width


def test_recomputed_layers_keep_their_inputs_and_one_of_them_the_rest() -> None:
    config = fakes.config(run={"recompute": True})
    objective = fakes.objective(config)
    count_parameters(objective)
    found = summary.estimate_memory(config, objective, ranks=1)
    images, patches, layers, width, own = 4, 16, 2, 32, 16
    assert found["vision activations"] == images * ((patches + 1) * (layers * 4 + 68) + patches * 4) * width
    # One fusion layer over 4 images and 12 pairs, two text layers over 8 texts and 12 pairs, one decoder layer.
    tokens = (16 * patches * (4 + 68), 20 * 32 * (2 * 4 + 68), 4 * (32 + patches) * (4 + 68))
    assert found["other activations"] == sum(tokens) * own


def test_the_compressor_keeps_the_features_of_all_layers_that_it_reads() -> None:
    wide, narrow = (
        summary.estimate_memory(config, fakes.objective(config), ranks=1)["vision activations"]
        for config in (
            fakes.config(model={"vision": replace(fakes.VISION, mode="frozen", feature_layers=k)}) for k in (2, 1)
        )
    )
    assert (narrow, wide) == (4 * 16 * 32 * 4, 2 * 4 * 16 * 32 * 4)


def test_a_queue_of_token_states_is_counted_to_the_byte() -> None:
    config = fakes.config(loss={"itm_negatives": "queue"}, data={"max_tokens": 40})
    without = summary.estimate_memory(fakes.config(), fakes.objective(fakes.config()), ranks=1)["queue"]
    found = summary.estimate_memory(config, fakes.objective(config), ranks=1)["queue"] - without
    d, patches, tokens = fakes.WIDTH, fakes.PATCHES, 64
    assert found == 8 * (2 * d * (patches + tokens) + tokens + 2 * 4 * d + 8) + 8


@pytest.mark.parametrize("phase", ["coarse", "fine", "joint"])
@pytest.mark.parametrize(("preset", "ranks", "gib"), [("small", 1, 8), ("large", 1, 40), ("eight", 8, 24)])
def test_a_preset_s_batch_fits_its_gpu_as_estimated(phase: Phase, preset: Preset, ranks: int, gib: int) -> None:
    config = configure(phase, preset)
    config = replace(config, run=replace(config.run, precision="bf16"))
    objective = summary.build_shape(config)
    count_parameters(objective)
    total = sum(summary.estimate_memory(config, objective, ranks).values())
    assert total < 0.8 * gib * 2**30  # the rest for what is not counted: attention, the allocator, the driver


def test_more_ranks_need_less_for_activations() -> None:
    config = fakes.config()
    objective = fakes.objective(config)
    one, two = (summary.estimate_memory(config, objective, ranks) for ranks in (1, 2))
    assert two["other activations"] < one["other activations"]
