"""Operations are those that one counts by hand, and MFU is their share of what a device can do."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bitgen.model.bitlinear import BitLinear
from bitgen.objectives.captioning import next_token_loss
from bitgen.objectives.total import draw
from bitgen.training import operations
from bitgen.training.config import RunConfig
from bitgen.training.layers import prepare_layers
from bitgen.training.operations import Operations, Utilisation, measured_peak, peak
from bitgen.training.optimizer import set_trainable
from tests import fakes
from tests.trainings import after, start

CPU = torch.device("cpu")


@pytest.mark.parametrize("ternary", [True, False])
def test_a_linear_layer_takes_a_product_forward_and_two_backward(ternary: bool) -> None:
    """Also where both passes are functions of our own, and where codes are multiplied in bytes."""
    layer, x = BitLinear(24, 40, ternary), torch.randn(6, 24, requires_grad=True)
    with Operations() as counted:
        layer(x).sum().backward()
    assert counted.total == 3 * 2 * 6 * 24 * 40


def test_the_head_takes_three_products_of_the_tokens_that_it_predicts() -> None:
    states, embedding = torch.randn(2, 5, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with Operations() as counted:
        next_token_loss(states, embedding, torch.zeros(2, 5, dtype=torch.int64), mask, 0.1).backward()
    assert counted.total == 3 * 2 * (4 + 2) * 50 * 8


def test_attention_takes_two_products_forward_and_five_backward() -> None:
    """Five: its kernels multiply queries and keys once more instead of keeping what came out."""
    q, k, v = (torch.randn(2, 4, 10, 8, requires_grad=True) for _ in range(3))
    with Operations() as counted:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counted.total == (2 + 5) * 2 * (2 * 4) * 10 * 10 * 8


def test_what_pytorch_s_own_counter_knows_is_counted_alike() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 9, 5), nn.GELU(), nn.Linear(5, 2))
    counts = []
    for counter in (Operations(), FlopCounterMode(display=False)):
        with counter:
            net(torch.randn(7, 3, 6, 6)).sum().backward()
        counts.append(counter.total if isinstance(counter, Operations) else counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_counting_changes_no_bit_and_a_second_forward_pass_does_not_count() -> None:
    found = []
    for run, counts in ((RunConfig(), True), (RunConfig(recompute=True), True), (RunConfig(), False)):
        objective = fakes.objective(fakes.config("joint"))
        set_trainable(objective, lora=True)
        prepare_layers(objective.model, run)
        counter = Operations()
        with counter if counts else torch.enable_grad():
            objective(fakes.fake_batch(), draw(0, 0, 4, fakes.PATCHES, CPU))["loss"].backward()
        found.append((counter.total, [p.grad for p in objective.parameters() if p.grad is not None]))
    (plain, gradients), (again, _), (_, uncounted) = found
    assert plain == again > 0
    assert all(a.equal(b) for a, b in zip(gradients, uncounted, strict=True))


def test_mfu_is_the_operations_of_the_images_a_second_over_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "peak", lambda _: 1000.0)
    utilisation, weight = Utilisation(CPU), torch.randn(3, 5)
    # 30 operations a row: 60 an image where an image has two rows, 90 where it has three.
    for tokens, rows in ((16, 8), (16, 8), (32, 12)):
        with utilisation.of(fakes.fake_batch(tokens=tokens), trains_tower=False):
            torch.randn(rows, 3) @ weight
    assert utilisation.read(images_per_s=2.0)["mfu"] == pytest.approx(2.0 * (60 + 60 + 90) / 3 / 1000)
    assert utilisation.read(images_per_s=2.0) == {}


def test_a_kind_of_micro_step_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "peak", lambda _: 1.0)
    utilisation, batch = Utilisation(CPU), fakes.fake_batch()
    found = []
    for trains, rows in ((False, 1), (False, 9), (True, 2)):
        with utilisation.of(batch, trains):
            torch.ones(rows, 1) @ torch.ones(1, 2)
        found.append(utilisation.read(1.0)["mfu"])
    assert found == [1.0, 1.0, 2.0]  # 4 operations a row, 4 images


def test_a_run_writes_its_mfu_down(tmp_path: Path) -> None:
    start(tmp_path, fakes.config(), should_stop=after(2))
    found = [json.loads(line)["mfu"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(found) == 2
    assert all(0 < value < 1 for value in found)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_the_peak_of_a_named_accelerator_is_its_data_sheet_s(
    monkeypatch: pytest.MonkeyPatch, name: str, tflops: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak.__wrapped__(torch.device("cuda")) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A10G", "Tesla T4"]
)
def test_any_other_accelerator_is_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(operations, "measured_peak", lambda *_: 7.0)
    assert peak.__wrapped__(torch.device("cuda")) == 7.0


def test_the_measured_peak_is_operations_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr(operations, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measured_peak(CPU, 16) == 2 * 16**3 / 2.0
