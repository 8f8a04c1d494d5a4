"""The whole model: pooling, embeddings, and the tower it was given."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from bitgen.model.bitgen import AttentionPool, BitGen, Temperature, grid_positions, masked_mean
from bitgen.model.vision import VisionError
from bitgen.training.config import ModelConfig, VisionConfig
from tests import fakes

CPU = torch.device("cpu")


@pytest.fixture
def stock(tmp_path: Path) -> Dinov2Model:
    """A tower as transformers saves one, in `tmp_path`."""
    torch.manual_seed(3)
    shape = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=fakes.SIDE
    )
    Dinov2Model(shape).save_pretrained(tmp_path)
    return Dinov2Model.from_pretrained(tmp_path).eval()


def _on(folder: Path) -> BitGen:
    vision = VisionConfig(model=str(folder), lora_rank=2)
    return fakes.model(vision=vision)


@torch.no_grad()
def test_a_new_model_sees_the_stock_features(tmp_path: Path, stock: Dinov2Model) -> None:
    images = fakes.fake_batch().images
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = stock(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(_on(tmp_path).vision(images), expected, rtol=0, atol=1e-5)


def test_no_part_of_the_tower_is_initialised_again(tmp_path: Path, stock: Dinov2Model) -> None:
    found = {n.replace(".base_layer", ""): p for n, p in _on(tmp_path).vision.backbone.named_parameters()}
    changed = [name for name, p in stock.named_parameters() if not found[name].equal(p)]
    assert changed == []


def test_stock_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(VisionError, match="expected the DINOv2 weights"):
        _on(tmp_path / "nothing")


@torch.no_grad()
def test_embeddings_are_unit_vectors() -> None:
    model, batch = fakes.model(), fakes.fake_batch()
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    torch.testing.assert_close(image.embedding.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(text.embedding.norm(dim=1), torch.ones(8))


@torch.no_grad()
@pytest.mark.parametrize("ternary", [False, True])
def test_more_padding_leaves_an_embedding_as_it_is(ternary: bool) -> None:
    model, batch = fakes.model(ternary=ternary), fakes.fake_batch(tokens=16)
    more = (0, 48)
    ids = torch.nn.functional.pad(batch.token_ids, more, value=50256)
    longer = model.encode_text(ids, torch.nn.functional.pad(batch.token_mask, more))
    shorter = model.encode_text(batch.token_ids, batch.token_mask)
    torch.testing.assert_close(longer.embedding, shorter.embedding, rtol=0, atol=1e-5)


@torch.no_grad()
def test_more_padding_leaves_a_match_as_it_is() -> None:
    model, batch = fakes.model(ternary=False), fakes.fake_batch(tokens=16)
    torch.nn.init.ones_(next(iter(model.gates().values())))
    image, rows = model.encode_image(batch.images), torch.arange(4)
    more = (0, 48)
    ids = torch.nn.functional.pad(batch.token_ids, more, value=50256)
    longer = model.encode_text(ids, torch.nn.functional.pad(batch.token_mask, more))
    shorter = model.encode_text(batch.token_ids, batch.token_mask)
    found = model.match(image, longer, rows, rows)
    torch.testing.assert_close(found, model.match(image, shorter, rows, rows), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_caption_that_starts_alike_has_another_embedding() -> None:
    model = fakes.model()
    ids = torch.tensor([[50256, 64, 3290, 50256], [50256, 64, 3797, 50256]])
    embedding = model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).embedding
    assert (embedding[0] - embedding[1]).abs().max() > 1e-3


def test_a_masked_mean_leaves_padding_out() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [100.0], [100.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(states, mask).tolist() == [[2.0], [5.0]]


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "end"])
def test_a_text_is_pooled_as_configured(pooling: str) -> None:
    model, batch = fakes.model(text_pooling=pooling), fakes.fake_batch()
    text = model.encode_text(batch.token_ids, batch.token_mask)
    weight = model.text_projection.weight.double()
    for row, length in enumerate(batch.token_mask.sum(dim=1).tolist()):
        own = text.dual[row, :length].double()
        code = {"mean": own.mean(dim=0), "end": own[-1]}[pooling]
        expected = weight @ code / (weight @ code).norm()
        torch.testing.assert_close(text.embedding[row].double(), expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [[], [0, 2]])
def test_attention_pooling_is_a_softmax_weighted_mean(hidden: list[int]) -> None:
    torch.manual_seed(0)
    pool = AttentionPool(4)
    torch.nn.init.normal_(pool.query, std=3.0)
    states, mask = fakes.noise(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    mask[0, hidden] = False
    kept = [n for n in range(5) if n not in hidden]
    scores = [float((pool.key.weight.double() @ states[0, n].double()) @ pool.query.double()) / 2 for n in kept]
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = sum(weight * states[0, n].double() for weight, n in zip(weights, kept, strict=True))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(pool(states, mask)[0].double(), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_pooling_is_float32_under_autocast() -> None:
    states, mask = fakes.noise(3, 5, fakes.WIDTH), torch.ones(3, 5, dtype=torch.bool)
    expected = masked_mean(states, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_mean(states, mask)
    assert found.equal(expected)


def test_every_patch_has_a_position_of_its_own() -> None:
    positions = grid_positions(4, 16, CPU)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(16)
    assert distances.min() > 0.1


def test_positions_name_the_row_first_and_the_column_second() -> None:
    positions = grid_positions(3, 16, CPU).unflatten(0, (3, 3))
    assert positions[1, 0, :8].equal(positions[1, 2, :8])
    assert positions[0, 1, 8:].equal(positions[2, 1, 8:])
    assert not positions[0, 1, :8].equal(positions[2, 1, :8])


def test_another_resolution_sees_the_same_field() -> None:
    coarse, fine = grid_positions(2, 16, CPU).unflatten(0, (2, 2)), grid_positions(6, 16, CPU).unflatten(0, (6, 6))
    torch.testing.assert_close(coarse, fine[1::3, 1::3])


@pytest.mark.parametrize(("start", "scale"), [(0.07, 1 / 0.07), (0.01, 100.0), (0.5, 2.0)])
def test_a_temperature_starts_where_it_is_told_to(start: float, scale: float) -> None:
    assert Temperature(start)().item() == pytest.approx(scale)


@pytest.mark.parametrize(("drifted", "scale"), [(math.log(1000), 100.0), (math.log(0.1), 2.0)])
def test_a_temperature_that_left_its_range_is_put_back(drifted: float, scale: float) -> None:
    temperature = Temperature(0.07)
    torch.nn.init.constant_(temperature.log_scale, drifted)
    assert temperature().item() == pytest.approx(scale)
    assert temperature.log_scale.item() == pytest.approx(math.log(scale))


def test_a_temperature_at_its_bound_still_learns() -> None:
    temperature = Temperature(0.01)
    temperature().backward()
    assert temperature.log_scale.grad is not None
    assert temperature.log_scale.grad.item() == pytest.approx(100.0)


@torch.no_grad()
def test_a_match_is_the_log_odds_of_belonging_together() -> None:
    model, batch = fakes.model(), fakes.fake_batch()
    image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)
    rows = torch.tensor([3, 0])
    odds = model.match_logits(image.start[rows], text.start[rows], text.mask[rows]).softmax(dim=1)
    torch.testing.assert_close(model.match(image, text, rows, rows), (odds[:, 1] / odds[:, 0]).log())


def test_the_documented_sizes() -> None:
    config = ModelConfig()
    with torch.device("meta"):
        vision = VisionConfig(weights="random", random_width=768, random_layers=12, random_heads=12)
        model = BitGen(ModelConfig(vision=vision))
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.compressor, model.text.token)]
    assert counts == [344_832, 6_432_896]
    assert (config.width, config.text_layers, config.memory_slots) == (128, 3, 32)
