"""What the benchmark of the exported model measures is one model, and its bounds are counted right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitgen.deploy.export import export_graphs
from bitgen.deploy.packed import read
from bitgen.deploy.runtime import sessions
from cli.export import tokens_of
from tests import fakes, packing
from tests.benchmarks import edge, edge_report, edge_run
from tests.benchmarks.edge_accuracy import accuracy
from tests.benchmarks.edge_count import Counting, Work
from tests.benchmarks.edge_float import export_floats
from tests.runs import run_config, write_run, write_world


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edge.prepare` leaves, with a tower of two layers."""
    folder = tmp_path_factory.mktemp("edge")
    edge.prepare(folder, "tiny", image_px=56, calibration_images=1)
    return folder


@pytest.mark.parametrize("kind", edge.CONTESTANTS)
def test_every_contestant_runs_and_says_what_the_report_asks(
    work: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_run, "SHAPES", ((8, 16, 8),))
    monkeypatch.setattr(edge_run, "LARGE", 1 << 12)
    threads = torch.get_num_threads()
    found = edge_run.run(kind, work, 1, 1, 1)
    torch.set_num_threads(threads)
    assert found.keys() == (edge_report.PEAKS if kind == "bounds" else edge_report.COLUMNS).keys()
    assert min(found.values()) > 0


def test_the_profile_names_the_products_of_bytes(work: Path) -> None:
    found = edge_run.run("profile", work, 1, 1, 1)
    assert found["MatMulIntegerToFloat"] > 0
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_graphs_of_floats_compute_the_model(tmp_path: Path) -> None:
    packing.packed(tmp_path / "packed", packing.model(ternary=False))
    export_graphs(tmp_path / "packed")
    export_floats(read(tmp_path / "packed"), tmp_path / "floats")
    pixels = {"pixels": np.random.default_rng(0).integers(0, 256, (2, 3, fakes.SIDE, fakes.SIDE), dtype=np.uint8)}
    text = {"rows": np.array([[3, 500, 7]]), "positions": np.arange(3), "mask": np.ones((1, 3), bool)}
    both = [sessions(tmp_path / folder, 1) for folder in ("packed", "floats")]
    for part, given in (("image_encoder", pixels), ("text_encoder", text)):
        a, b = (run(part, given)["embedding"] for run in both)
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_multiplications_and_bytes_of_weights_are_counted(tmp_path: Path) -> None:
    path, facts = packing.packed(tmp_path, packing.model())
    counting = Counting(read(path))
    counting.linear(np.zeros((2, 5, 32), np.float32), "compressor.layers.0")  # 32 to 24, in floats
    assert counting.work == Work(0, 2 * 5 * 32 * 24, 4 * 32 * 24)
    counting.ternary(np.ones((3, fakes.WIDTH), np.float32), "text.layers.0.feed_forward.up")  # 16 to 24
    assert facts.in_widths["text.layers.0.feed_forward.up"] == fakes.WIDTH
    assert counting.work == Work(3 * 16 * 24, 2 * 5 * 32 * 24, 4 * 32 * 24 + 16 * 24)
    counting.matmul(np.zeros((2, 3, 4), np.float32), np.zeros((2, 4, 5), np.float32))
    assert counting.work.float_products == 2 * 5 * 32 * 24 + 2 * 3 * 4 * 5


def test_a_bound_is_of_products_by_kind_or_of_bytes() -> None:
    machine = {"byte_peak": 100.0, "float_peak": 10.0, "memory_gb_per_s": 1.0, "cache_gb_per_s": 5.0}
    work = {"image": Work(10**9, 10**8, 10**6), "token": Work(10**6, 0, 10**7)}
    # 10 ms of bytes and 10 ms of floats; 1.1e9 products of bytes in 11 ms; 1e7 bytes at 5e9 a second in 2 ms.
    assert edge.bounds(machine, work) == {"bound_ms": 20.0, "all_bytes_ms": 11.0, "token_ms": 2.0}


def test_the_report_tells_which_target_is_missed() -> None:
    def median(image_ms: float) -> dict[str, float]:
        return {"cold_s": 1.0, "image_ms": image_ms, "token_ms": 1.0, "memory_mb": 100.0}

    peaks = {"byte_peak": 100.0, "float_peak": 10.0, "memory_gb_per_s": 1.0, "cache_gb_per_s": 5.0}
    reports = {
        "packed": [median(30), median(50), median(40)],
        "fp32": [median(60)],
        "torch": [median(80)],
        "bounds": [peaks],
    }
    work = {"image": Work(10**9, 10**8, 10**6), "token": Work(10**6, 0, 10**7)}
    found = edge.summary(reports, work, {"package_mb": 29.0, "package_mb_trimmed": 25.0})
    assert {"fp32": 1.5, "torch": 2.0, "int8_bound": 0.5, "package_mb": 29.0}.items() <= found["ratios"].items()
    accuracy = [
        {"step": step, "mb": 1.0, "figures": {"acc50": {"value": 0.5, "difference": less, "interval": [less, 0.01]}}}
        for step, less in (("PyTorch, fp32", 0.0), ("tower in int8", -0.02))
    ]
    said = list(edge_report.lines({**found, "profile": {"MatMul": 3.0}, "accuracy": accuracy}))
    missed = [line.split("|")[1].strip() for line in said if "(missed)" in line]
    assert missed == ["package_mb_trimmed", "fp32", "int8_bound"]
    assert "| packed, 1 | 1 (1 to 1) | 40 (30 to 50) | 1 (1 to 1) | 100 (100 to 100) |" in said
    assert "| tower in int8 | 1.0 | 0.5 (-0.0200; -0.0200 to +0.0100) |" in said


def test_every_step_of_an_export_is_compared_with_the_checkpoint(tmp_path: Path) -> None:
    run = write_run(run_config(write_world(tmp_path / "data"), tmp_path / "runs"))
    asked = {"box": ("eval/drawn-phrases", "grounding", "mean_iou"), "found": ("eval/drawn-captions", "t2i", "r1")}
    found = accuracy(run, tmp_path, asked)
    assert [each["step"] for each in found] == [
        "PyTorch, fp32",
        "packed, tower in fp16",
        "tower in int8",
        "weights in 7 bits",
        "vocabulary trimmed",
    ]
    whole, fp16, int8, narrow, trimmed = found
    assert fp16["mb"] > int8["mb"] == narrow["mb"] > trimmed["mb"]
    assert {each["difference"] for each in whole["figures"].values()} == {0.0}
    assert all(abs(each["figures"]["box"]["difference"]) < 0.02 for each in found)
    assert len(trimmed["figures"]["box"]["interval"]) == 2


def test_a_corpus_uses_as_many_tokens_as_are_asked_for(tmp_path: Path) -> None:
    words = edge.corpus(50)
    (tmp_path / "all").write_text("\n".join(words))
    (tmp_path / "fewer").write_text("\n".join(words[:-1]))
    assert len(tokens_of(tmp_path / "fewer")) < 50 <= len(tokens_of(tmp_path / "all"))
