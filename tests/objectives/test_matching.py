"""Hard negatives and matching."""

import pytest
import torch
from torch import Tensor

from bitgen.model.bitgen import BitGen, ImageStates, TextStates
from bitgen.objectives.matching import draw_negatives, image_text_matching
from tests import fakes

SCALE = torch.tensor(1 / 0.07)
GRID = (torch.arange(10_000) + 0.5) / 10_000
"""Draws that cover [0, 1) evenly."""


def _frequencies(similarity: Tensor, allowed: Tensor) -> Tensor:
    """How often each entry of a row is chosen over the grid of draws."""
    rows = GRID.shape[0]
    index, _ = draw_negatives(similarity.expand(rows, -1), allowed.expand(rows, -1), GRID)
    return torch.bincount(index, minlength=similarity.shape[0]) / rows


def test_a_negative_is_drawn_as_often_as_the_softmax_says() -> None:
    similarity, allowed = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5]), torch.tensor([True, True, True, False, True])
    weights = [1.0, 2.718282, 0.135335, 0.0, 1.648721]
    expected = torch.tensor([w / sum(weights) for w in weights])
    torch.testing.assert_close(_frequencies(similarity, allowed), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("barred", [[0], [4], [0, 1], [3, 4], [0, 2, 4], [1, 2, 3, 4]])
@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_a_barred_entry_is_never_drawn(barred: list[int], spread: float) -> None:
    allowed = torch.ones(5, dtype=torch.bool)
    allowed[barred] = False
    assert _frequencies(spread * fakes.noise(5), allowed)[barred].tolist() == [0.0] * len(barred)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("seed", range(5))
def test_the_first_and_the_last_draw_are_allowed_entries(uniform: float, seed: int) -> None:
    allowed = torch.zeros(200, 50, dtype=torch.bool)
    allowed[:, 7:43] = True
    index, exists = draw_negatives(5 * fakes.noise(200, 50, seed=seed), allowed, torch.full((200,), uniform))
    assert exists.all()
    assert allowed.gather(1, index[:, None]).all()


def test_a_saturated_row_still_has_a_negative() -> None:
    similarity = torch.tensor([[100.0, -100.0, -100.0]])
    index, exists = draw_negatives(similarity, torch.tensor([[False, True, True]]), torch.tensor([0.7]))
    assert (index.tolist(), exists.tolist()) == ([2], [True])


def test_a_row_without_an_allowed_entry_has_no_negative() -> None:
    allowed = torch.tensor([[False, False], [True, False]])
    _, exists = draw_negatives(torch.zeros(2, 2), allowed, torch.tensor([0.5, 0.5]))
    assert exists.tolist() == [False, True]


def _states(seed: int = 0) -> tuple[BitGen, ImageStates, TextStates]:
    model, batch = fakes.model(seed, ternary=False), fakes.fake_batch(texts=1)
    for gate in model.gates().values():
        torch.nn.init.constant_(gate, 0.5)
    return model, model.encode_image(batch.images), model.encode_text(batch.token_ids, batch.token_mask)


def _loss_of(model: BitGen, image: ImageStates, text: TextStates, pairs: list[tuple[int, int]]) -> list[float]:
    """Cross-entropy of every pair (image row, text row) on its own, in order."""
    losses = []
    for i, t in pairs:
        logits = model.match_logits(image.start[i : i + 1], text.start[t : t + 1], text.mask[t : t + 1])[0].double()
        losses.append(float(logits.logsumexp(0) - logits[int(i == t)]))
    return losses


def _slow_choice(similarity: Tensor, allowed: list[int], uniform: float) -> int:
    """The first allowed entry whose cumulative share exceeds the draw."""
    weights = {g: float(similarity[g].double().exp()) for g in allowed}
    reached = 0.0
    for g, weight in weights.items():
        reached += weight / sum(weights.values())
        if reached > uniform:
            return g
    raise AssertionError


@torch.no_grad()
def test_itm_is_the_cross_entropy_of_pairs_wrong_texts_and_wrong_images() -> None:
    model, image, text = _states()
    uniform, rows, scale = (
        torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]),
        torch.arange(4),
        torch.tensor(3.0),
    )
    found = image_text_matching(model, image, text, rows, torch.tensor([1, 2, 3, 4]), scale, uniform)
    similarity = scale * image.embedding @ text.embedding.T
    others = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    wrong_text = [(i, _slow_choice(similarity[i], others[i], float(uniform[i, 0]))) for i in range(4)]
    wrong_image = [(_slow_choice(similarity[:, t], others[t], float(uniform[t, 1])), t) for t in range(4)]
    losses = _loss_of(model, image, text, [(i, i) for i in range(4)] + wrong_text + wrong_image)
    assert found.item() == pytest.approx(sum(losses) / 12, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("says", "share"), [(5.0, 1 / 3), (-5.0, 2 / 3)])
def test_who_says_the_same_of_all_pairs_is_right_of_those_of_which_it_is_so(says: float, share: float) -> None:
    model, image, text = _states()
    model.match_head.bias.copy_(torch.tensor([-says, says]))
    seen: dict[str, torch.Tensor] = {}
    image_text_matching(model, image, text, torch.arange(4), torch.arange(4), SCALE, torch.rand(4, 2), seen=seen)
    assert seen["itm_acc"].item() == pytest.approx(share)


@torch.no_grad()
def test_a_row_without_negatives_drops_out() -> None:
    model, image, text = _states()
    seen: dict[str, torch.Tensor] = {}
    everyone_the_same = image_text_matching(
        model, image, text, torch.arange(4), torch.tensor([7, 7, 7, 7]), SCALE, torch.rand(4, 2), seen=seen
    )
    pairs = model.match(image, text, torch.arange(4), torch.arange(4))
    assert seen["itm_acc"].item() == pytest.approx((pairs > 0).float().mean().item())
    positives = _loss_of(model, image, text, [(i, i) for i in range(4)])
    assert everyone_the_same.item() == pytest.approx(sum(positives) / 4, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.6, 0.999])
def test_a_text_of_the_same_photograph_is_never_a_negative(uniform: float) -> None:
    model, image, text = _states()
    ids = torch.tensor([1, 1, 1, 2])  # the only wrong partner of rows 0 to 2 is row 3
    found = image_text_matching(
        model, image, text, torch.arange(4), ids, torch.tensor(0.0), torch.full((4, 2), uniform)
    )
    last = int(uniform * 3)  # of row 3, by equal shares
    pairs = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 3), (1, 3), (2, 3), (3, last), (3, 0), (3, 1), (3, 2), (last, 3)]
    assert found.item() == pytest.approx(sum(_loss_of(model, image, text, pairs)) / 12, abs=1e-5)


@torch.no_grad()
def test_each_image_meets_the_text_that_its_row_names() -> None:
    model, image, text = _states()
    rows = torch.tensor([2, 0, 3, 1])
    moved = TextStates(
        text.start[rows.argsort()], text.dual, text.code, text.embedding[rows.argsort()], text.mask[rows.argsort()]
    )
    ids, uniform = torch.arange(4), torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    straight = image_text_matching(model, image, text, torch.arange(4), ids, SCALE, uniform)
    crossed = image_text_matching(model, image, moved, rows, ids, SCALE, uniform)
    assert crossed.item() == pytest.approx(straight.item(), abs=1e-6)


def test_negatives_get_a_gradient_too() -> None:
    model, image, text = _states()
    image.start.retain_grad()
    image_text_matching(model, image, text, torch.arange(4), torch.arange(4), SCALE, torch.full((4, 2), 0.5)).backward()
    assert image.start.grad is not None
    assert image.start.grad.flatten(1).abs().amax(dim=1).min() > 0
