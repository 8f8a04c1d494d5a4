"""What a graph reads gives what a batch gives; the graphs themselves are for an accelerator (test_accelerator.py)."""

from dataclasses import replace

import pytest
import torch

from bitgen.objectives.total import draw
from bitgen.training.graphs import _shape, _static, captures
from tests import fakes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_padded_texts_change_no_loss_and_no_gradient() -> None:
    config = fakes.config("coarse")
    batch = fakes.fake_batch()
    # Two images with one text only.
    keep = torch.tensor([0, 1, 2, 4, 5, 6])
    batch = replace(
        batch,
        token_ids=batch.token_ids[keep],
        token_mask=batch.token_mask[keep],
        text_image=batch.text_image[keep],
        first_text=torch.tensor([0, 2, 3, 5]),
        second_text=torch.tensor([1, -1, 4, -1]),
    )
    found = []
    for each in (batch, _static(batch)):
        objective = fakes.objective(config).train()
        parts = objective(each, draw(0, 0, 4, fakes.PATCHES, CPU))
        parts["loss"].backward()
        gradient = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
        found.append((len(each.token_ids), {name: value.item() for name, value in parts.items()}, gradient))
    (rows, parts, gradient), (padded, same, as_large) = found
    assert (rows, padded) == (6, 8)
    assert same == pytest.approx(parts, rel=1e-6)
    torch.testing.assert_close(as_large, gradient, rtol=1e-4, atol=1e-6)


def test_batches_with_other_phrases_have_one_shape() -> None:
    shapes = [_shape(_static(fakes.fake_batch(seed=seed, phrases=1 + seed))) for seed in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_batches_of_another_bucket_have_another_shape() -> None:
    assert _shape(_static(fakes.fake_batch(tokens=16))) != _shape(_static(fakes.fake_batch(tokens=32)))


@pytest.mark.parametrize(
    ("phase", "run", "is_captured"),
    [
        ("coarse", {}, True),
        ("fine", {}, False),
        ("joint", {}, False),
        ("coarse", {"recompute": True}, False),
        ("coarse", {"graphs": False}, False),
    ],
)
def test_what_is_captured(phase: str, run: dict[str, bool], is_captured: bool) -> None:
    config = fakes.config(phase, run=run)  # pyright: ignore[reportArgumentType]
    assert captures(config, CUDA) == is_captured
    assert not captures(config, CPU)
