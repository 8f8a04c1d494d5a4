"""Counts of parameters, operations and bytes, by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from bitgen.evaluation.efficiency import evaluate_efficiency, flops, latency_intervals, parameters, percentile, sizes
from bitgen.evaluation.efficiency_figures import efficiency_figures
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import BitLinear
from bitgen.model.fusion import Attention
from bitgen.tokens import VOCABULARY
from tests import fakes
from tests.runs import run_config, write_run


def test_parts_add_up_and_only_adapters_of_a_kept_tower_are_trained() -> None:
    model = fakes.model()
    found = parameters(model)
    assert found["total"] == sum(p.numel() for p in model.parameters())
    assert found["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found["lora"] == sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name) > 0
    assert sum(sum(kinds.values()) for kinds in found["parts"].values()) == found["total"]
    # 2 text, 1 image layer: attention 4 d d, feed-forward 2 d ffn; 2 fused layers and 1 decoder layer 4 d d more
    d, ffn = fakes.WIDTH, 24
    assert found["ternary"] == 4 * (4 * d * d + 2 * d * ffn) + 3 * 4 * d * d


@pytest.mark.parametrize("ternary", [True, False])
def test_operations_of_an_attention_are_counted_by_hand(ternary: bool) -> None:
    attention = Attention(16, 2, ternary)
    states, context = fakes.noise(3, 20, 16), fakes.noise(3, 30, 16, seed=1)
    # query and output 16 x 16 on 20 states, keys and values 16 x 32 on 30, scores and mixing 20 x 30 x 16 each
    products = 3 * (2 * 20 * 16 * 16 + 30 * 16 * 32) + 3 * 2 * 20 * 30 * 16
    assert flops({"one": lambda: attention(states, context)}) == {"one": 2 * products}


def test_a_ternary_weight_has_1_58_or_2_bits_and_all_else_four_bytes() -> None:
    model = fakes.model()
    found = sizes(model)
    layers = [layer for layer in model.modules() if isinstance(layer, BitLinear) and layer.ternary]
    weights = sum(layer.weight.numel() for layer in layers)
    total = sum(p.numel() for p in model.parameters())
    rest = 4 * (total - weights + len(layers))
    assert found["fp32"] == 4 * total
    assert found["ternary_2"] == rest + weights / 4  # every layer's are a multiple of four
    assert found["ternary_1_58"] == math.ceil(weights * 1.584962500721156 / 8) + rest


def test_a_checkpoint_has_the_size_of_its_weights(tmp_path: Path) -> None:
    folder = write_run(run_config(tmp_path, tmp_path / "runs"))
    checkpoint = next((folder / "checkpoints").iterdir())
    assert sizes(fakes.model(), checkpoint)["on_disk"] == (checkpoint / "model.safetensors").stat().st_size


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([5.0, 1.0, 2.0, 4.0, 3.0], 0.9) == 5
    assert percentile([float(n) for n in range(1, 11)], 0.9) == 9
    assert percentile([7.0], 0.5) == 7


def test_latencies_have_intervals_as_scipy_has_them() -> None:
    taken = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3, 5.8, 9.7, 9.3]
    found = latency_intervals(taken, resamples=20_000)
    for name, figure in (("median_ms", np.median), ("p90_ms", lambda x, axis: np.sort(x, axis=axis)[..., 8])):
        theirs = bootstrap((taken,), figure, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert found[name] == pytest.approx([theirs.low, theirs.high], abs=0.3)


@pytest.mark.parametrize("kept", [None, [1, 2, 3, 5, 8, 13, 21, 34, 50256]])
def test_all_of_it_is_measured_and_shown(kept: list[int] | None) -> None:
    classes = len(kept) if kept else VOCABULARY
    model = BitGen(replace(fakes.MODEL, vocabulary=classes), kept=kept).eval()
    found = evaluate_efficiency(model, fakes.SIDE, repetitions=2)
    assert set(found["flops"]) == set(found["latency"]) == {"image", "text", "grounding", "caption_token"}
    assert all(value > 0 for value in found["flops"].values())
    assert found["flops"]["caption_token"] > 2 * fakes.WIDTH * classes
    assert all(each["p90_ms"] >= each["median_ms"] > 0 for each in found["latency"].values())
    for each in found["latency"].values():
        low, high = each["interval"]["median_ms"]
        assert low <= each["median_ms"] <= high
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert len(efficiency_figures(found)) == 4
