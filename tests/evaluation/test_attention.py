"""Attention weights that give what the layer gives, and where a head that is made by hand looks."""

from dataclasses import replace
from io import BytesIO
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from bitgen.evaluation.attention import evaluate_attention, phrase_attention, watched
from bitgen.evaluation.attention_figures import attention_cards, attention_figures, attention_png
from bitgen.evaluation.bootstrap import halves
from bitgen.evaluation.grounding import encode
from bitgen.evaluation.phrases import text_rows
from bitgen.model.fusion import Attention, Layer
from bitgen.objectives.grounding import phrase_coverage
from tests import fakes


@pytest.mark.parametrize("ternary", [True, False])
def test_weights_times_values_are_what_a_layer_gives(ternary: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(fakes.WIDTH, 2, ternary)
    states, context = fakes.noise(3, 5, fakes.WIDTH), fakes.noise(3, 7, fakes.WIDTH, seed=1)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    weights, (_, values) = attention.weights(states, context, mask), attention.keys_values(context)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.output(mixed), attention(states, context, mask), rtol=1e-4, atol=2e-2)
    assert weights[1, :, :, 4:].abs().max() == 0
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 5))


def test_a_layer_that_is_watched_gives_the_same_and_is_left_as_it_was() -> None:
    attention, states = Attention(fakes.WIDTH, 2, False), fakes.noise(1, 4, fakes.WIDTH)
    before = attention(states, states)
    with watched({"one": attention}) as found:
        assert attention(states, states).equal(before)
    torch.testing.assert_close(found["one"], attention.weights(states, states))
    with pytest.raises(ZeroDivisionError), watched({"one": attention}):
        raise ZeroDivisionError
    assert not attention._forward_pre_hooks


def _slow(fusion: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of fused text layer 0 for all phrases of a batch, [P, H, N], a phrase at a time, and ours."""
    model, batch = fakes.model(fusion=fusion, text_layers=2, fusion_layers=1).eval(), fakes.fake_batch(images=2)
    image, rows = encode(model, batch), text_rows(batch)
    text = model.encode_text(rows.token_ids, rows.token_mask)
    layer = cast(Layer, model.text.fused_layers[0])
    expected = []
    for phrase in range(len(rows.phrase_text)):
        row = int(rows.phrase_text[phrase])
        states, mask = text.start[row : row + 1], text.mask[row : row + 1]
        patches = image.start[rows.text_image[row]][None]
        if layer.cross_attention is None:
            both = torch.cat([states, patches], dim=1)
            seen = torch.cat([mask, torch.ones(1, fakes.PATCHES, dtype=torch.bool)], dim=1)
            weights = layer.attention.weights(states, both, seen)[0, :, :, states.shape[1] :]
        else:
            weights = layer.cross_attention.weights(layer.attention(states, states, mask), patches)[0]
        start, stop = rows.phrase_tokens[phrase].tolist()
        mean = weights[:, start:stop].mean(dim=1)
        expected.append(mean / mean.sum(dim=1, keepdim=True))
    return torch.stack(expected), phrase_attention(model, image, rows)["text 1 to image"]


@pytest.mark.parametrize("fusion", ["gated", "concat"])
@torch.inference_mode()
def test_a_phrase_s_map_is_the_mean_over_its_tokens(fusion: str) -> None:
    expected, found = _slow(fusion)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.std() > 1e-4


def test_a_head_that_looks_everywhere_alike_is_at_chance() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch(images=3)
    head = cast(Attention, model.grounding.cross_attention[0])
    with torch.no_grad():
        head.query.weight.zero_()
    found, _ = evaluate_attention(model, [batch])
    way = found["ways"]["grounding 0"]
    assert way["in_box"] == pytest.approx([found["area"]] * 2, rel=1e-4)
    assert way["shuffled"] == pytest.approx([found["area"]] * 2, rel=1e-4)
    assert way["patches"] == pytest.approx([fakes.PATCHES] * 2, rel=1e-4)
    assert (found["phrases"], found["shuffled_phrases"]) == (12, 12)


def test_shares_and_peaks_are_those_of_a_slow_count() -> None:
    """Boxes that cover whole patches of the 4 x 4, so that a patch is in or out."""
    model, batch = fakes.model().eval(), fakes.fake_batch(images=3)
    corners = torch.tensor([[0.0, 0.0, 0.5, 0.75], [0.25, 0.5, 1.0, 1.0]]).repeat(6, 1)
    batch = replace(batch, boxes=corners)
    inside = [{0, 1, 4, 5, 8, 9}, {9, 10, 11, 13, 14, 15}] * 6
    found, looked = evaluate_attention(model, [batch], shown=2)
    weights = phrase_attention(model, encode(model, batch), text_rows(batch))["text 1 to image"]
    for head in range(2):
        rows = weights[:, head].tolist()
        share = sum(sum(row[n] for n in box) for row, box in zip(rows, inside, strict=True)) / 12
        peaks = sum(max(range(16), key=row.__getitem__) in box for row, box in zip(rows, inside, strict=True)) / 12
        assert found["ways"]["text 1 to image"]["in_box"][head] == pytest.approx(share, rel=1e-4)
        assert found["ways"]["text 1 to image"]["peak_in_box"][head] == pytest.approx(peaks)
    assert found["area"] == pytest.approx(6 / 16)
    assert [each.key for each in looked] == ["fake-0", "fake-1"]
    assert looked[1].maps["text 1 to image"].equal(weights[4])
    assert looked[1].boxes.equal(corners[:1])


def test_every_figure_of_a_head_has_an_interval_by_photograph() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch(images=24, texts=1, phrases=1)
    found, _ = evaluate_attention(model, [batch], seed=3)
    way = found["ways"]["text 1 to image"]
    assert set(way["interval"]) == {"in_box", "peak_in_box", "patches", "shuffled"}
    for name, ends in way["interval"].items():
        assert len(ends) == 2
        assert all(low <= value <= high for value, (low, high) in zip(way[name], ends, strict=True))
    weights = phrase_attention(model, encode(model, batch), text_rows(batch))["text 1 to image"]
    looked = (weights[:, 0] * phrase_coverage(batch.boxes, batch.box_phrase, 24, 4)).sum(dim=1).double().numpy()
    theirs = bootstrap((looked,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert way["interval"]["in_box"][0] == pytest.approx([theirs.low, theirs.high], abs=0.06 * width)
    assert found["bootstrap"] == {"percent": 95, "resamples": 1000, "seed": 3, "photographs": 24}
    assert found["interval"]["area"][0] < found["area"] < found["interval"]["area"][1]


def test_the_best_head_is_chosen_on_one_half_of_the_photographs_and_told_of_the_other() -> None:
    model = fakes.model().eval()
    batches = [fakes.fake_batch(images=3, seed=1), fakes.fake_batch(images=4, seed=2, position=3)]
    found, _ = evaluate_attention(model, batches, seed=4, resamples=50)
    looked, photographs = [], []
    for batch in batches:
        cover = phrase_coverage(batch.boxes, batch.box_phrase, len(batch.phrase_text), 4)
        weights = phrase_attention(model, encode(model, batch), text_rows(batch))["text 1 to image"]
        looked += (weights * cover[:, None]).sum(dim=-1).tolist()
        photographs += batch.image_ids[batch.text_image[batch.phrase_text]].tolist()
    first, second = halves(np.array(photographs), 4)
    means = np.array(looked)[first].mean(axis=0)
    best = found["ways"]["text 1 to image"]["best"]
    assert best["head"] == means.argmax()
    assert best["in_box"] == pytest.approx(np.array(looked)[second][:, means.argmax()].mean(), rel=1e-5)
    assert found["told_phrases"] == second.sum() == 16  # four of seven images
    low, high = best["interval"]["in_box"]
    assert low < best["in_box"] < high
    assert set(best["interval"]) == {"in_box", "peak_in_box", "patches", "shuffled"}


def test_phrases_of_one_photograph_have_no_interval() -> None:
    found, _ = evaluate_attention(fakes.model().eval(), [fakes.fake_batch(images=1)])
    assert (found["interval"], found["ways"]["grounding 0"]["interval"]) == ({}, {})


def test_what_was_seen_becomes_a_card_and_a_picture() -> None:
    found, looked = evaluate_attention(fakes.model().eval(), [fakes.fake_batch(images=2)], shown=1)
    assert found["gates"] == {"text 1 to image": 0.0}
    card = attention_cards(looked)
    assert card.count('class="heat"') == 4  # two ways of two heads
    assert "everywhere alike" in attention_figures(found)["attention-in-box"]
    assert looked[0].position == 0
    short, long = (Image.open(BytesIO(attention_png(replace(looked[0], words="a dog " * n)))) for n in (1, 60))
    assert (short.width, long.width) == (568, 568)
    assert long.height >= short.height + 40


def test_images_without_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one or more phrases to look for, found none"):
        evaluate_attention(fakes.model(), [fakes.fake_batch(phrases=0)])
