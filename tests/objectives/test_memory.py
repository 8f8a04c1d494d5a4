"""Episodes: what is written, what is read, and what the decoder sees of it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.objectives.memory import Recall, random_halves, recall_cosines, recall_episodes
from bitgen.objectives.total import draw
from bitgen.training.config import LossConfig
from tests import fakes

N = fakes.PATCHES
HALVES = torch.arange(N).expand(6, -1) % 2 == 0
"""Even patches are written, odd ones asked with."""


def _states(batch: Batch) -> tuple[BitGen, ImageStates, TextStates]:
    model = fakes.model()
    return model, model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)


def _recall(
    batch: Batch, takes_part: list[bool], size: int = 6, halves: Tensor = HALVES, most: int | None = None
) -> Recall:
    model, image, text = _states(batch)
    with torch.no_grad():
        return recall_episodes(
            model,
            image,
            text,
            batch.first_text,
            batch.second_text,
            batch.image_ids,
            torch.tensor(takes_part),
            halves[: len(takes_part)],
            size if most is None else most,
            size,
        )


def _slow_reading(batch: Batch, written: list[int], asked: int) -> Tensor:
    """[d]: the images `written` go into a memory of their own one by one, and image `asked` reads it."""
    model, image, text = _states(batch)
    with torch.no_grad():
        state = model.memory.empty(1)
        for row in written:
            key = model.image_pool(image.dual[row : row + 1, 0::2])
            value = text.code[batch.first_text[row]][None]
            state = model.memory.write(state, key[None], value[None], torch.ones(1, 1, dtype=torch.bool))
        reading = model.memory.read(state, model.image_pool(image.dual[asked : asked + 1, 1::2])[None])
        return model.reading_projection(reading.values[0, 0] * reading.confidence[0, 0])


def test_an_image_that_takes_part_is_decoded_from_the_half_that_was_not_written() -> None:
    recall = _recall(fakes.fake_batch(6), [True] * 6)
    assert recall.context_mask[:, :N].equal(~HALVES)


def test_an_image_that_takes_part_is_decoded_into_its_second_text() -> None:
    batch = fakes.fake_batch(6)
    recall = _recall(batch, [True, False, True, True, False, False])
    assert recall.target.tolist() == [1, 2, 5, 7, 8, 10]


def test_an_image_that_takes_part_sees_its_reading_and_no_other_does() -> None:
    recall = _recall(fakes.fake_batch(6), [True, False, True, True, False, False])
    assert recall.context_mask[:, N].tolist() == [True, False, True, True, False, False]


def test_an_image_that_does_not_take_part_is_decoded_from_all_its_patches() -> None:
    recall = _recall(fakes.fake_batch(6), [False, True, True, False, True, True])
    assert recall.context_mask[[0, 3], :N].all()


def test_an_image_with_one_text_takes_no_part() -> None:
    recall = _recall(fakes.fake_batch(6, texts=1), [True] * 6)
    assert recall.target.tolist() == [0, 1, 2, 3, 4, 5]
    assert recall.context_mask[:, :N].all()
    assert not recall.context_mask[:, N].any()


@pytest.mark.parametrize("asked", [0, 2, 3])
def test_a_reading_is_of_the_memory_that_the_others_of_the_episode_wrote(asked: int) -> None:
    batch = fakes.fake_batch(6)
    recall = _recall(batch, [True, False, True, True, False, False])
    expected = _slow_reading(batch, [0, 2, 3], asked)
    torch.testing.assert_close(recall.context[asked, N], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "written", "asked"), [(2, [2, 3], 2), (4, [4, 5], 5), (4, [0, 1, 2, 3], 1)])
def test_each_episode_has_a_memory_of_its_own(size: int, written: list[int], asked: int) -> None:
    batch = fakes.fake_batch(6)
    recall = _recall(batch, [True] * 6, size)
    torch.testing.assert_close(recall.context[asked, N], _slow_reading(batch, written, asked), rtol=0, atol=1e-5)


def test_another_image_changes_no_reading_outside_its_episode() -> None:
    """T11."""
    batch = fakes.fake_batch(6)
    images = batch.images.clone()
    images[1] = 255 - images[1]
    before = _recall(batch, [True] * 6, size=3).context[:, N]
    after = _recall(replace(batch, images=images), [True] * 6, size=3).context[:, N]
    assert before[3:].equal(after[3:])
    assert (before[:3] - after[:3]).abs().amax(dim=1).min() > 1e-5


def test_a_full_episode_takes_no_more() -> None:
    recall = _recall(fakes.fake_batch(6), [True, False, True, True, True, True], size=3, most=1)
    assert recall.context_mask[:, N].tolist() == [True, False, False, True, False, False]


def test_a_photograph_is_written_once_in_an_episode() -> None:
    batch = fakes.fake_batch(6, image_ids=[5, 9, 5, 8, 9, 5])
    recall = _recall(batch, [True, False, True, True, True, True])
    assert recall.context_mask[:, N].tolist() == [True, False, False, True, True, False]
    torch.testing.assert_close(recall.context[3, N], _slow_reading(batch, [0, 3, 4], 3), rtol=0, atol=1e-5)


def test_a_photograph_may_be_written_again_in_the_next_episode() -> None:
    recall = _recall(fakes.fake_batch(6, image_ids=[5, 9, 8, 5, 9, 8]), [True] * 6, size=3)
    assert recall.context_mask[:, N].all()


def test_no_text_that_is_decoded_was_written() -> None:
    batch = fakes.fake_batch(6)
    before = _recall(batch, [True] * 6)
    ids = batch.token_ids.clone()
    ids[1::2, 1:5] = 7  # every second text becomes another
    after = _recall(Batch(**{**batch.__dict__, "token_ids": ids}), [True] * 6)
    assert before.context.equal(after.context)


def test_the_divergence_is_over_slots_and_width() -> None:
    """The matrix normal's in float64, of one episode that all six images wrote."""
    batch = fakes.fake_batch(6)
    model, image, text = _states(batch)
    memory, keys = model.memory, model.image_pool(image.dual, HALVES)
    x, z = memory.address(keys).detach().double(), text.code[batch.first_text].detach().double()
    noise, prior = memory.noise().item(), memory.prior_mean.detach().double()
    precision = torch.eye(4).double() + x.T @ x / noise
    shift = torch.linalg.solve(precision, x.T @ (z - x @ prior) / noise)
    nats = fakes.WIDTH * (precision.inverse().trace() - 4 + precision.logdet()) + shift.square().sum()
    assert _recall(batch, [True] * 6).kl.item() == pytest.approx((nats / 2 / 4 / fakes.WIDTH).item(), rel=1e-4)


def test_utilisation_is_the_mean_over_episodes() -> None:
    batch = fakes.fake_batch(6)
    model, image, _ = _states(batch)
    x = model.memory.address(model.image_pool(image.dual, HALVES)).detach().double().unflatten(0, (2, 3))
    ridge = model.memory.noise().item() * torch.eye(4).double()
    expected = [(part @ torch.linalg.inv(part.T @ part + ridge) @ part.T).trace().item() for part in x]
    found = _recall(batch, [True] * 6, size=3).utilisation
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_a_memory_that_nothing_was_written_to_uses_no_slot() -> None:
    assert _recall(fakes.fake_batch(6), [False] * 6).utilisation.item() == 0


def test_a_recall_is_the_same_twice_and_in_evaluation() -> None:
    """No noise is added: neither to what is written nor to what is read."""
    batch = fakes.fake_batch(6)
    model, image, text = _states(batch)
    drawn = batch.first_text, batch.second_text, batch.image_ids, torch.ones(6).bool(), HALVES, 6, 6
    trained = recall_episodes(model.train(), image, text, *drawn).context
    assert recall_episodes(model.eval(), image, text, *drawn).context.equal(trained)


def test_between_30_and_50_percent_of_images_with_two_texts_decode_with_an_empty_memory() -> None:
    drawn = draw(0, 0, 4096, N, torch.device("cpu")).episode < LossConfig().episode_share
    assert 0.3 <= 1 - drawn.float().mean().item() <= 0.5


def test_a_memory_that_nothing_was_written_to_has_not_moved() -> None:
    assert _recall(fakes.fake_batch(6), [False] * 6).kl.item() == pytest.approx(0.0, abs=1e-6)


def test_writing_moves_the_memory_from_its_prior() -> None:
    assert _recall(fakes.fake_batch(6), [True] * 6).kl.item() > 0.01


@torch.no_grad()
def test_without_participants_the_decoder_predicts_as_without_a_memory() -> None:
    batch = fakes.fake_batch(6)
    model, image, _ = _states(batch)
    recall = _recall(batch, [False] * 6)
    ids = batch.token_ids[recall.target]
    found = model.decoder(ids, model.text.token, recall.context, recall.context_mask)
    torch.testing.assert_close(found, model.decoder(ids, model.text.token, image.dual), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_reading_changes_what_the_decoder_predicts() -> None:
    batch = fakes.fake_batch(6)
    model, image, _ = _states(batch)
    recall = _recall(batch, [True] * 6)
    ids = batch.token_ids[recall.target]
    found = model.decoder(ids, model.text.token, recall.context, recall.context_mask)
    assert (found - model.decoder(ids, model.text.token, image.dual[:, 1::2])).abs().max() > 1e-3


def test_halves_are_the_lower_draws() -> None:
    draws = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.3, 0.6, 0.1, 0.9]])
    assert random_halves(draws).tolist() == [[False, True, False, True], [True, False, True, False]]


@pytest.mark.parametrize(("patches", "half"), [(16, 8), (9, 4), (256, 128)])
def test_a_half_has_half_of_the_patches(patches: int, half: int) -> None:
    assert random_halves(torch.rand(5, patches)).sum(dim=1).tolist() == [half] * 5


def test_what_is_recalled_is_compared_with_what_was_written_for_it_and_for_the_others() -> None:
    east, north, west = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    written = torch.stack([torch.stack([east, north, west]), torch.stack([north, north, north])])
    recalled = torch.stack([torch.stack([east, north + east, north]), torch.stack([east, north, west])])
    active = torch.tensor([[True, True, False], [False, True, False]])
    own, others = recall_cosines(recalled, written, active)
    # Rows that count: east with east, (1, 2) with north, and north with north in a memory of its own.
    assert own.item() == pytest.approx((1 + 2 / 5**0.5 + 1) / 3)
    assert others.item() == pytest.approx((0 + 1 / 5**0.5) / 2)
    assert [each.item() for each in recall_cosines(recalled, written, torch.zeros(2, 3, dtype=torch.bool))] == [0, 0]


def test_alone_in_its_memory_an_image_recalls_what_was_written() -> None:
    recall = _recall(fakes.fake_batch(1), [True])
    assert recall.own.item() > 0.9
    assert recall.others.item() == 0
