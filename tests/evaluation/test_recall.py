"""What is remembered of photographs: whose codes, among how many, and controls that must fail."""

import math

import pytest
import torch
from torch import Tensor

from bitgen.evaluation.recall import Halves, encode_halves, evaluate_memory, first_of_each, forgetting, recall_curves
from bitgen.model.memory import EpisodicMemory
from tests import fakes

WIDTH = 64


def memory(slots: int = 16) -> EpisodicMemory:
    torch.manual_seed(0)
    return EpisodicMemory(slots, WIDTH)


def halves(count: int = 150, change: float = 0.2) -> Halves:
    written, values = fakes.noise(2, count, WIDTH, seed=1)
    return Halves(written, written + change * fakes.noise(count, WIDTH, seed=2), values, torch.arange(count))


def test_a_photograph_is_written_and_asked_for_by_halves_that_share_no_patch() -> None:
    model, batch = fakes.model(), fakes.fake_batch(images=3)
    found = encode_halves(model, [batch], seed=4)
    dual = model.encode_image(batch.images).dual
    draws = torch.rand(dual.shape[:2], generator=torch.Generator().manual_seed(4))
    for row in range(3):
        half = sorted(range(fakes.PATCHES), key=lambda n: draws[row, n].item())[: fakes.PATCHES // 2]
        rest = [n for n in range(fakes.PATCHES) if n not in half]
        for code, patches in ((found.written, half), (found.asked, rest)):
            alone = model.image_pool(dual[row : row + 1, patches])
            torch.testing.assert_close(code[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_values_are_the_codes_of_first_texts() -> None:
    model, batch = fakes.model(), fakes.fake_batch(images=3)
    rows = batch.first_text
    expected = model.encode_text(batch.token_ids[rows], batch.token_mask[rows]).code
    torch.testing.assert_close(encode_halves(model, [batch]).values, expected)


def test_a_photograph_that_stands_twice_counts_once_and_equal_texts_have_one_code() -> None:
    model = fakes.model()
    batches = [fakes.fake_batch(images=3, image_ids=[7, 8, 7]), fakes.fake_batch(images=3, image_ids=[9, 8, 9])]
    found = encode_halves(model, batches)  # both batches are of one seed, so the texts of 7 and 9 are equal
    assert len(found) == 3
    assert found.text.tolist() == [0, 1, 0]
    assert found.values[0].equal(found.values[2])
    assert first_of_each(found.text).tolist() == [0, 1]


def test_nothing_to_remember_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one or more photographs to remember, found none"):
        encode_halves(fakes.model(), [])
    with pytest.raises(ValueError, match="expected 6 or more photographs to remember, found 4"):
        evaluate_memory(fakes.model(), [fakes.fake_batch()])


def test_few_and_many_are_searched_among_as_many() -> None:
    curves = recall_curves(memory(), halves(), [1, 8, 64], reads=200, searched=40)["other"]
    assert list(curves) == ["1", "8"]  # 64 is more than a third of 150
    assert [curves[n]["chance"] for n in curves] == [1 / 40, 1 / 40]
    assert "kept" not in curves["1"]
    assert curves["8"]["kept"] > 0.9


def test_curves_fall_beyond_the_slots_and_controls_lie_at_chance() -> None:
    curves = recall_curves(memory(8), halves(), [1, 4, 48], reads=600, searched=48)["other"]
    assert curves["1"]["held_out_key"] == 1
    assert curves["4"]["held_out_key"] > 0.9 > 0.7 > curves["48"]["held_out_key"] > 0.1
    for found in curves.values():
        assert found["empty"] == pytest.approx(1 / 48, abs=0.03)
        assert found["shuffled"] == pytest.approx(1 / 48, abs=0.03)
        assert found["nearest_key"] == 1


def test_a_text_of_its_own_can_be_told_without_a_memory_and_another_s_cannot() -> None:
    """Values that are a linear map of the keys, which a prior mean holds: a model that describes."""
    told, found = memory(), halves(change=0.01)
    with torch.no_grad():
        address = told.address(found.written)
        described = Halves(found.written, found.asked, address @ torch.ones(16, WIDTH).tril(), found.text)
        told.prior_mean.copy_(torch.ones(16, WIDTH).tril())
    curves = recall_curves(told, described, [8], reads=400)
    assert curves["own"]["8"]["empty"] > 0.9
    assert curves["other"]["8"]["empty"] < 0.3


def test_without_more_to_search_the_written_alone_are() -> None:
    curves = recall_curves(memory(), halves(), [1, 2, 4], reads=100)["own"]
    assert {n: found["chance"] for n, found in curves.items()} == {"2": 0.5, "4": 0.25}


def never_written(slots: int, keys: Tensor, values: Tensor, asked: Tensor) -> Tensor:
    """Ridge regression in float64, of the memory of `memory(slots)`."""
    one = memory(slots)
    x, q = one.address(keys).detach().double(), one.address(asked).detach().double()
    prior, noise = one.prior_mean.detach().double(), one.noise().item()
    inverse = torch.linalg.inv(torch.eye(slots, dtype=torch.float64) + x.T @ x / noise)
    return q @ (prior + inverse @ x.T @ (values.double() - x @ prior) / noise)


def test_what_is_forgotten_is_as_if_it_had_never_been_written() -> None:
    found = forgetting(memory(), halves(), reads=400)
    assert (found["written"], found["forgotten"], found["episodes"], found["searched"]) == (8, 4, 50, 50)
    recall, known = found["recall"], found["known"]
    assert recall["forgotten"]["before"] > 0.9 > 0.1 > recall["forgotten"]["after"] == recall["forgotten"]["never"]
    assert recall["kept"]["after"] == recall["kept"]["never"] > 0.9
    assert known["forgotten"]["before"] > 0.9 > 0.1 > known["forgotten"]["after"]
    assert known["kept"]["after"] > 0.9
    assert found["chance"] == pytest.approx(1 / 50)
    assert 0 < found["distance"] < 1e-3


def test_forgetting_that_leaves_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    one = memory()
    monkeypatch.setattr(one, "forget", lambda state, *_: state)
    found = forgetting(one, halves(), reads=200)
    assert found["distance"] > 0.1
    assert found["recall"]["forgotten"]["after"] > 0.9 > found["recall"]["forgotten"]["never"]


def test_intervals_are_of_photographs_and_hold_the_mean() -> None:
    few = recall_curves(memory(8), halves(60), [20], reads=200, resamples=200)["other"]["20"]
    many = recall_curves(memory(8), halves(60), [20], reads=2000, resamples=200)["other"]["20"]
    assert (few["reads"], many["reads"]) == (200, 2000)
    for found in (few, many):
        low, high = found["interval"]["held_out_key"]
        assert low < found["held_out_key"] < high
    # Sixty photographs are sixty, however often they are read: an interval over readings would be a third as wide.
    wide, narrow = (found["interval"]["held_out_key"] for found in (few, many))
    assert narrow[1] - narrow[0] > 0.45 * (wide[1] - wide[0])
    assert "forgotten" not in few["interval"]


def test_without_resamples_there_are_figures_alone() -> None:
    found = recall_curves(memory(), halves(), [4], reads=20)["own"]["4"]
    assert all(isinstance(value, float) for value in found.values())


def test_what_is_recalled_before_and_after_forgetting_has_an_interval_by_photograph() -> None:
    many = halves(60, 1.5)
    found, more = (forgetting(memory(8), many, reads=reads, resamples=200) for reads in (200, 2000))
    for figure in ("recall", "known"):
        for half, shares in found[figure].items():
            for when in ("before", "after", "never"):
                low, high = shares["interval"][when]
                assert low <= shares[when] <= high, (figure, half, when)
    # Ten times as many readings of the same photographs say little more of others.
    widths = [ends[1] - ends[0] for each in (found, more) for ends in [each["recall"]["kept"]["interval"]["after"]]]
    assert widths[1] > 0.3 * widths[0] > 0
    assert "interval" not in forgetting(memory(8), many, reads=200)["recall"]["kept"]


def test_all_of_it_is_counted() -> None:
    batches = [fakes.fake_batch(images=15, position=15 * n, seed=n) for n in range(2)]
    found = evaluate_memory(fakes.model(), batches, seed=3, reads=60, resamples=50)
    assert (found["photographs"], found["texts"], found["slots"], found["searched"]) == (30, 30, 4, 10)
    assert list(found["recall"]["own"]) == ["1", "2", "4", "8"]
    assert list(found["naming"]) == ["5"]
    assert list(found["novelty"]) == ["1", "2", "4"]
    assert found["forgetting"]["written"] == 2
    assert found == evaluate_memory(fakes.model(), batches, seed=3, reads=60, resamples=50)
    assert all(math.isfinite(value) for value in found["novelty"]["4"].values() if not isinstance(value, dict))
    assert set(found["novelty"]["4"]["interval"]) == {"auc", "evidence", "nearest_key", "empty", "shuffled"}
    assert set(found["forgetting"]["recall"]["kept"]["interval"]) == {"before", "after", "never"}
    assert set(found["naming"]["5"]["interval"]) == {"recall", "reading", "cache", "nearest", "empty", "shuffled"}
