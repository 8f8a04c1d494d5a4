"""Every loss together: what is computed, how it is weighted, and what the caption decoder may know."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.grounding import Grounded
from bitgen.objectives.total import Draws, Objective, draw
from tests import fakes

CPU = torch.device("cpu")
MEMORY = ("memory_utilisation", "memory_recall", "memory_recall_others")


def _draws(images: int = 4, seed: int = 0) -> Draws:
    return draw(seed, 0, images, fakes.PATCHES, CPU)


def _changed(batch: Batch, **fields: Tensor) -> Batch:
    return Batch(**{**batch.__dict__, **fields})


def _logits(objective: Objective, batch: Batch) -> Tensor:
    """[T, L, d]: what the decoder makes of the batch in the objective's own forward pass."""
    found: list[Tensor] = []
    hook = objective.model.decoder.register_forward_hook(lambda _, __, states: found.append(states.detach()))
    objective(batch, _draws(len(batch.keys)))
    hook.remove()
    return found[0]


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({"itc": 1.0}, {"itc", "acc_i2t", "acc_t2i", "batch_similarity", "queue_similarity", "queue_age"}),
        ({"itm": 1.0}, {"itm", "itm_acc"}),
        ({"text": 1.0}, {"text", "token_acc", "token_nats", "memory_kl", *MEMORY}),
        ({"grounding": 1.0}, {"l1", "giou", "focal", "dice", "earlier", "grounding", "grounding_acc50"}),
        ({"region": 1.0}, {"region", "region_temperature"}),
        ({"words": 1.0}, {"words"}),
    ],
)
def test_a_loss_without_weight_is_not_computed(weights: dict[str, float], names: set[str]) -> None:
    objective = Objective(fakes.model(), fakes.losses(**weights))
    assert set(objective(fakes.fake_batch(), _draws())) == names | {"loss", "temperature"}


@torch.no_grad()
def test_the_sum_is_weighted() -> None:
    weights = {"itc": 0.3, "itm": 0.5, "text": 0.7, "grounding": 1.1, "region": 1.3, "words": 1.5, "memory_kl": 1.7}
    parts = Objective(fakes.model(), fakes.losses(**weights))(fakes.fake_batch(), _draws())
    expected = sum(weight * float(parts[name]) for name, weight in weights.items())
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_grounding_is_5_l1_2_giou_focal_and_dice_of_every_heat_map() -> None:
    parts = Objective(fakes.model(), fakes.losses(grounding=1.0))(fakes.fake_batch(), _draws())
    l1, giou, focal, dice, earlier = (float(parts[name]) for name in ("l1", "giou", "focal", "dice", "earlier"))
    assert earlier > 0
    assert float(parts["grounding"]) == pytest.approx(5 * l1 + 2 * giou + focal + dice + earlier, rel=1e-6)


@torch.no_grad()
def test_a_phrase_is_found_where_its_box_overlaps_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = Objective(fakes.model(), fakes.losses(grounding=1.0)), fakes.fake_batch()
    low, high = batch.boxes.chunk(2, dim=1)
    width = high - low
    share = torch.linspace(0.1, 0.95, len(batch.boxes))[:, None]  # of the box's width, from its left edge: the overlap
    narrowed = torch.cat([low + width * torch.cat([share, torch.ones_like(share)], dim=1) / 2, width], dim=1)
    narrowed[:, 2:3] *= share
    answer = Grounded(narrowed, torch.zeros(len(batch.boxes), fakes.PATCHES))
    monkeypatch.setattr(objective.model, "ground", lambda *_: answer)
    found = objective(batch, _draws())["grounding_acc50"].item()
    assert found == pytest.approx((share >= 0.5).float().mean().item())
    assert 0.4 < found < 0.6


def test_only_losses_have_a_gradient() -> None:
    weights = {"itc": 1.0, "itm": 1.0, "text": 1.0, "grounding": 1.0, "region": 1.0, "words": 1.0, "memory_kl": 1.0}
    parts = Objective(fakes.model(), fakes.losses(**weights))(fakes.fake_batch(), _draws())
    losses = {"loss", *weights, "l1", "giou", "focal", "dice", "earlier"}
    assert {name for name, value in parts.items() if value.requires_grad} == losses


@torch.no_grad()
def test_the_temperature_is_reported() -> None:
    parts = Objective(fakes.model(temperature=0.2), fakes.losses(itc=1.0))(fakes.fake_batch(), _draws())
    assert float(parts["temperature"]) == pytest.approx(0.2)


def test_a_batch_without_phrases_is_trained_on() -> None:
    objective = Objective(fakes.model(), fakes.losses(itc=1.0, grounding=0.5, region=1.0, words=1.0))
    parts = objective(fakes.fake_batch(phrases=0), _draws())
    parts["loss"].backward()
    assert [parts[name].item() for name in ("grounding", "region", "words")] == [0.0, 0.0, 0.0]
    assert objective.model.grounding.regression.grad is not None  # ranks with phrases must not wait for this one


@torch.no_grad()
def test_images_with_different_numbers_of_phrases_weigh_by_phrase() -> None:
    model, batch = fakes.model(), fakes.fake_batch(2, texts=1, phrases=2)
    objective = Objective(model, fakes.losses(grounding=1.0))
    kept = torch.tensor([0, 1, 2])
    parts = objective(_pick(batch, kept), _draws(2))
    alone = [objective(_pick(batch, kept[i : i + 1]), _draws(2)) for i in range(3)]
    assert float(parts["l1"]) == pytest.approx(sum(float(one["l1"]) for one in alone) / 3, rel=1e-5)


def _pick(batch: Batch, phrases: Tensor) -> Batch:
    """The batch with only these of its phrases, one box each."""
    fields = {name: getattr(batch, name)[phrases] for name in ("phrase_text", "phrase_slot", "phrase_tokens", "boxes")}
    return _changed(batch, **fields, box_phrase=torch.arange(len(phrases)))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("changed", [2, 4])
def test_the_decoder_cannot_copy_what_it_is_to_predict(share: float, changed: int) -> None:
    objective = Objective(fakes.model(), fakes.losses(text=1.0, episode_share=share))
    batch = fakes.fake_batch()
    target = int(share)  # the second text of an image that takes part, the first of one that does not
    ids = batch.token_ids.clone()
    ids[target::2, changed:5] = 7
    before, after = _logits(objective, batch), _logits(objective, _changed(batch, token_ids=ids))
    assert before[:, :changed].equal(after[:, :changed])
    assert not before[:, changed].equal(after[:, changed])


def test_the_decoder_sees_its_own_image() -> None:
    objective = Objective(fakes.model(), fakes.losses(text=1.0, episode_share=0.5))
    batch = fakes.fake_batch()
    rolled = _changed(batch, images=batch.images.roll(1, dims=0))
    assert (_logits(objective, batch) - _logits(objective, rolled)).abs().amax(dim=(1, 2)).min() > 1e-4


@torch.no_grad()
def test_caption_loss_is_the_mean_over_tokens() -> None:
    objective = Objective(fakes.model(), fakes.losses(text=1.0, episode_share=0.5))
    batch = fakes.fake_batch(texts=1)
    states, embedding = _logits(objective, batch), objective.model.text.token.weight
    lengths = batch.token_mask.sum(dim=1).tolist()
    losses = [
        torch.nn.functional.cross_entropy(states[t, l] @ embedding.T, batch.token_ids[t, l + 1], label_smoothing=0.1)
        for t in range(4)
        for l in range(lengths[t] - 1)  # noqa: E741 (a token, as in the formula)
    ]
    found = objective(batch, _draws())["text"]
    assert float(found) == pytest.approx(float(sum(losses)) / len(losses), rel=1e-5)


@pytest.mark.parametrize("name", ["itc", "itm", "grounding", "region", "words"])
@torch.no_grad()
def test_the_memory_is_empty_for(name: str) -> None:
    """Neither other addresses and another prior, nor other episodes and halves, change what this loss is."""
    objective = Objective(
        fakes.model(), fakes.losses(itc=1.0, itm=1.0, text=1.0, grounding=1.0, region=1.0, words=1.0, queue=0)
    )
    batch, draws = fakes.fake_batch(), _draws()
    before = objective(batch, draws)
    for parameter in objective.model.memory.parameters():
        parameter.add_(torch.randn_like(parameter))
    after = objective(batch, replace(draws, episode=draws.episode * 0.1, patches=draws.patches.flip(1)))
    assert after[name].equal(before[name])
    assert not after["text"].equal(before["text"])


def test_draws_follow_from_seed_and_micro_step() -> None:
    assert draw(3, 7, 4, 16, CPU).patches.equal(draw(3, 7, 4, 16, CPU).patches)


@pytest.mark.parametrize(("seed", "micro_step"), [(3, 8), (4, 7), (0, 7), (7, 3)])
def test_another_micro_step_or_seed_draws_otherwise(seed: int, micro_step: int) -> None:
    mine, other = draw(3, 7, 4, 16, CPU), draw(seed, micro_step, 4, 16, CPU)
    assert not (mine.negatives == other.negatives).any()
    assert not (mine.episode == other.episode).any()


def test_draws_are_even() -> None:
    draws = draw(0, 0, 500, 16, CPU)
    assert draws.patches.mean().item() == pytest.approx(0.5, abs=0.02)
    assert 0 <= draws.patches.min() < draws.patches.max() < 1


def test_the_largest_seed_draws() -> None:
    assert draw(2**31 - 1, 10**7, 2, 4, CPU).episode.shape == (2,)
