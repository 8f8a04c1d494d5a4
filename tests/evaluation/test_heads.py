"""Heads are masked and come back; what a mask changes is what the loss says."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bitgen.batch import Batch
from bitgen.evaluation.bootstrap import halves
from bitgen.evaluation.head_figures import head_figures
from bitgen.evaluation.heads import LOSSES, evaluate_heads, losses, ways, without_channels, without_heads
from bitgen.model.bitgen import BitGen
from bitgen.model.fusion import Attention
from bitgen.objectives.captioning import next_token_loss
from tests import fakes


def opened(**fields: Any) -> BitGen:
    """A model whose gates let something through."""
    model = fakes.model(**fields).eval()
    with torch.no_grad():
        for gate in model.gates().values():
            gate.fill_(0.7)
    return model


@pytest.mark.parametrize("ternary", [True, False])
def test_a_masked_head_gives_nothing_and_comes_back(ternary: bool) -> None:
    torch.manual_seed(0)
    attention, states = Attention(fakes.WIDTH, 2, ternary), fakes.noise(2, 5, fakes.WIDTH)
    before = attention(states, states)
    weights, (_, values) = attention.weights(states, states), attention.keys_values(states)
    values = values.clone()
    values[:, 1] = 0
    expected = attention.output((weights @ values).transpose(1, 2).flatten(2))
    with without_heads(attention, [1]):
        torch.testing.assert_close(attention(states, states), expected, rtol=1e-4, atol=2e-2)
    with pytest.raises(ZeroDivisionError), without_heads(attention, [0]):
        raise ZeroDivisionError
    assert attention(states, states).equal(before)


def test_without_any_head_a_layer_gives_zero() -> None:
    attention = Attention(fakes.WIDTH, 2, True)
    with without_heads(attention, [0, 1]):
        assert attention(fakes.noise(1, 3, fakes.WIDTH), fakes.noise(1, 4, fakes.WIDTH)).abs().max() == 0


def test_a_step_of_decoding_is_masked_too() -> None:
    model = opened()
    image = model.encode_image(fakes.fake_batch(images=2).images)
    way = ways(model)["decoder 0 to image"].attention
    with without_heads(way, [0, 1]):
        unseeing = model.caption(image, max_tokens=6)
    assert unseeing[0] == unseeing[1]


def test_every_attention_of_the_model_is_a_way() -> None:
    model = opened()
    named = [module for module in model.modules() if isinstance(module, Attention)]
    assert {id(way.attention) for way in ways(model).values()} == {id(module) for module in named}
    assert list(ways(model)) == [
        "image 0",
        "image 0 to text",
        "text 0",
        "text 1",
        "text 1 to image",
        "decoder 0",
        "decoder 0 to image",
        "grounding 0",
    ]


@pytest.mark.parametrize("fusion", ["gated", "concat"])
def test_a_way_changes_the_losses_that_are_said_and_no_other(fusion: str) -> None:
    model, batch = opened(fusion=fusion), fakes.fake_batch()
    with torch.inference_mode():
        patches = model.vision(batch.images)
    base = losses(model, batch, patches, LOSSES)
    for way in ways(model).values():
        with without_heads(way.attention, range(way.attention.heads)):
            found = losses(model, batch, patches, LOSSES)
        assert {loss for loss in LOSSES if not found[loss][0].equal(base[loss][0])} == set(way.losses)


def test_losses_are_those_of_plain_code() -> None:
    model, batch = opened(), fakes.fake_batch()
    with torch.inference_mode():
        patches = model.vision(batch.images)
        found = losses(model, batch, patches, LOSSES)
        image = model.encode_patches(patches)
        ids, mask = batch.token_ids[batch.first_text], batch.token_mask[batch.first_text]
        logits = image.embedding @ model.encode_text(ids, mask).embedding.T / 0.07
        own = torch.arange(4)
        contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        words = model.decoder(ids, model.text.token, image.dual) @ model.text.token.weight.T
        caption = F.cross_entropy(words[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        classes, told = model.text.token.targets(ids, mask)
        trained = next_token_loss(
            model.decoder(ids, model.text.token, image.dual), model.text.token.head, classes, told, 0.0
        )
    means = {loss: values.mean().item() for loss, (values, _) in found.items()}
    assert means["contrast"] == pytest.approx(contrast.item(), rel=1e-4)
    assert means["caption"] == pytest.approx(caption.item(), rel=1e-4)
    assert found["caption"][0].sum().item() == pytest.approx(trained.item(), rel=1e-5)
    assert found["contrast"][1].tolist() == [0, 1, 2, 3]
    assert torch.bincount(found["caption"][1]).tolist() == mask[:, 1:].sum(dim=1).tolist()
    assert found["grounding"][1].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def without_one(model: BitGen, batches: list[Batch], name: str, head: int, loss: str) -> tuple[Tensor, Tensor]:
    """A loss of everything in `batches` with all heads and without one of a way, [P] each."""
    patches = [model.vision(batch.images) for batch in batches]
    pairs = list(zip(batches, patches, strict=True))
    whole = torch.cat([losses(model, *each, (loss,))[loss][0] for each in pairs])
    with without_heads(ways(model)[name].attention, [head]):
        return whole, torch.cat([losses(model, *each, (loss,))[loss][0] for each in pairs])


def images_of(batches: list[Batch], loss: str) -> Tensor:
    """The number of the image of each item of a loss."""
    each = [losses(opened(), batch, opened().vision(batch.images), (loss,))[loss][1] for batch in batches]
    return torch.cat([rows + 4 * number for number, rows in enumerate(each)])


def test_a_rise_is_the_difference_over_all_batches_and_the_model_is_as_before() -> None:
    model = opened()
    batches = [fakes.fake_batch(seed=seed, position=4 * seed) for seed in (0, 1)]
    found = evaluate_heads(model, batches)
    whole, lesser = without_one(model, batches, "text 1 to image", 1, "grounding")
    of = next(each for each in found["heads"] if (each["way"], each["head"]) == ("text 1 to image", 1))
    assert of["rise"]["grounding"] == pytest.approx((lesser - whole).mean().item(), abs=1e-6)
    assert found["base"]["grounding"] == pytest.approx(whole.mean().item())
    assert (found["images"], found["batch"]) == (8, 4)
    assert (found["counts"]["contrast"], found["counts"]["grounding"]) == (8, 32)
    assert not [m for m in model.modules() if m._forward_pre_hooks]


def test_heads_are_ordered_by_one_half_of_the_photographs_and_told_of_the_other() -> None:
    model = opened()
    batches = [fakes.fake_batch(seed=seed, position=4 * seed) for seed in (0, 1)]
    found = evaluate_heads(model, batches, seed=2)
    ids = torch.cat([batch.image_ids for batch in batches]).numpy()
    first, second = (torch.from_numpy(half) for half in halves(ids, 2))
    assert (first.sum(), second.sum()) == (4, 4)
    order = []
    for each in found["heads"]:
        shares = {}
        for loss in each["rise"]:
            whole, lesser = without_one(model, batches, each["way"], each["head"], loss)
            of = images_of(batches, loss)
            shares[loss] = [
                ((lesser - whole)[rows].mean() / whole[rows].mean()).item() for rows in (first[of], second[of])
            ]
        most = max(shares, key=lambda loss: shares[loss][0])
        assert each["loss"] == most
        assert each["importance"] == pytest.approx(shares[most][1], abs=1e-6)
        order.append(shares[most][0])
    assert order == sorted(order, reverse=True)


def test_a_rise_has_an_interval_by_photograph_and_so_has_its_share_of_the_loss() -> None:
    model = opened()
    batches = [fakes.fake_batch(seed=seed, position=4 * seed) for seed in (0, 1)]
    found = evaluate_heads(model, batches, seed=3, resamples=300)
    whole, lesser = (each.double().numpy() for each in without_one(model, batches, "grounding 0", 0, "grounding"))
    of = next(each for each in found["heads"] if (each["way"], each["head"]) == ("grounding 0", 0))
    second = halves(torch.cat([batch.image_ids for batch in batches]).numpy(), 3)[1].nonzero()[0]

    def slow(images: NDArray[np.int64], loss: NDArray[np.float64] | None) -> list[float]:
        random, found = np.random.default_rng(3), list[float]()
        for _ in range(300):  # four phrases an image
            drawn = images[random.integers(len(images), size=len(images))]
            rows = np.concatenate([np.arange(4 * image, 4 * image + 4) for image in drawn])
            found.append((lesser[rows] - whole[rows]).mean() / (1 if loss is None else loss[rows].mean()))
        return np.quantile(found, (0.025, 0.975)).tolist()

    assert of["interval"]["grounding"] == pytest.approx(slow(np.arange(8), None), abs=1e-7)
    assert of["interval"]["importance"] == pytest.approx(slow(second, whole), abs=1e-7)
    assert set(found["ways"]["image 0"]["interval"]) == set(LOSSES)
    assert set(found["random"]["grounding 0"]["interval"]) == {"grounding"}
    assert found["bootstrap"] == {"percent": 95, "resamples": 300, "seed": 3, "photographs": 8}


def test_channels_at_random_are_as_many_as_a_head_has_and_no_head() -> None:
    attention, states = Attention(fakes.WIDTH, 2, False), fakes.noise(2, 5, fakes.WIDTH)
    given: list[Tensor] = []
    masks = (without_channels(attention, 1), without_channels(attention, 1), without_heads(attention, [0]))
    for mask in masks:
        with mask:
            watch = attention.output.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
            attention(states, states)
            watch.remove()
    masked = [(each == 0).all(dim=(0, 1)) for each in given]
    assert [int(each.sum()) for each in masked] == [fakes.WIDTH // 2] * 3
    assert masked[0].equal(masked[1])
    assert masked[2].nonzero()[:, 0].tolist() == list(range(fakes.WIDTH // 2))
    assert 0 < int(masked[0][: fakes.WIDTH // 2].sum()) < fakes.WIDTH // 2


def test_a_photograph_alone_is_both_halves() -> None:
    found = evaluate_heads(opened(), [fakes.fake_batch(images=1)])
    for each in found["heads"]:
        share = each["rise"][each["loss"]] / found["base"][each["loss"]]
        assert each["importance"] == pytest.approx(share, abs=1e-9)
        assert each["interval"] == {}


def test_what_a_set_does_not_ask_for_is_left_out() -> None:
    found = evaluate_heads(opened(), [fakes.fake_batch(phrases=0)])
    assert set(found["base"]) == {"contrast", "caption"}
    with pytest.raises(ValueError, match="expected one or more batches to mask heads on, found none"):
        evaluate_heads(opened(), [])


def test_every_loss_has_a_matrix_and_the_heads_a_ranking() -> None:
    found = evaluate_heads(opened(), [fakes.fake_batch()])
    figures = head_figures(found)
    assert set(figures) == {"heads-contrast", "heads-caption", "heads-grounding", "heads-ranking"}
    first = found["heads"][0]
    assert f"{first['way']}, head {first['head']}" in figures["heads-ranking"]
    assert len(re.findall("<rect class=.s. bar", figures["heads-caption"])) == 3 * (2 + 2)  # and at random, and all
