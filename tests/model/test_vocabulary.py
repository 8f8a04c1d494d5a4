"""A model of few tokens is the whole model, as long as nothing else is said."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen, ImageStates
from bitgen.model.vocabulary import TokenEmbedding
from bitgen.objectives import captioning
from bitgen.objectives.total import Draws, Objective, draw
from bitgen.tokens import EOT, VOCABULARY
from tests import fakes

WORDS = 30
KEPT = (*range(700, 700 + 50 * WORDS, 50), EOT)
LOSS = fakes.losses(text=1.0, episode_share=0.5)


def _models() -> tuple[BitGen, BitGen]:
    """A whole model whose likeliest tokens are always of `KEPT`, and the model of those tokens alone."""
    whole = fakes.model(ternary=False)
    with torch.no_grad():
        whole.text.token.weight[list(KEPT[:-1])] = 2 * fakes.unit(WORDS)
        torch.nn.init.normal_(whole.decoder.position.weight)  # else the first token would be repeated to the end
        for name, weight in whole.decoder.named_parameters():
            if name.endswith("cross_attention.query.weight"):
                weight.mul_(6)
    few = BitGen(replace(whole.config, vocabulary=len(KEPT)), kept=KEPT)
    tensors = whole.state_dict()
    rows = torch.cat([tensors["text.token.weight"][list(KEPT)], torch.zeros(1, fakes.WIDTH)])
    few.load_state_dict({**tensors, "text.token.weight": rows, "text.token.kept": torch.tensor(KEPT)})
    return whole, few


def _batch() -> Batch:
    """Texts of kept tokens."""
    batch = fakes.fake_batch()
    ids = batch.token_ids
    return replace(batch, token_ids=torch.where(ids == EOT, EOT, torch.tensor(KEPT)[ids % WORDS]))


def _image() -> ImageStates:
    states = fakes.noise(6, fakes.PATCHES, fakes.WIDTH)
    return ImageStates(states, states, states.mean(dim=1), fakes.unit(6))


def _draws() -> Draws:
    return draw(0, 0, 4, fakes.PATCHES, torch.device("cpu"))


def _decoded(model: BitGen, batch: Batch) -> tuple[Tensor, Tensor, float]:
    """What the decoder was given and gave in a training step, ids [T, L] and states [T, L, d], and the caption loss."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(module: nn.Module, given: tuple[Any, ...], found: Tensor) -> None:
        seen.append((given[0], found))

    handle = model.decoder.register_forward_hook(look)
    loss = Objective(model, LOSS)(batch, _draws())["text"].item()
    handle.remove()
    return *seen[0], loss


def _loss(ids: Tensor, states: Tensor, classes: Tensor) -> float:
    """Mean over the tokens to predict that are kept, up to the first end-of-text behind a text; `classes` [V, d]."""
    losses = [
        functional.cross_entropy(states[t, l] @ classes.T, torch.tensor(KEPT.index(token)), label_smoothing=0.1)
        for t, row in enumerate(ids[:, 1:].tolist())
        for l, token in enumerate(row[: row.index(EOT) + 1])  # noqa: E741 (a token, as in the formula)
        if token in KEPT
    ]
    return float(sum(losses)) / len(losses)


@torch.no_grad()
def test_texts_of_kept_tokens_have_the_states_of_the_whole_model() -> None:
    batch = _batch()
    expected, found = (model.encode_text(batch.token_ids, batch.token_mask) for model in _models())
    assert found.dual.equal(expected.dual)
    assert found.embedding.equal(expected.embedding)


@torch.no_grad()
def test_logits_are_the_kept_ones_of_the_whole_model() -> None:
    whole, few = _models()
    context, parents = fakes.noise(3, 5, fakes.WIDTH), torch.zeros(3, 1, dtype=torch.long)
    first = torch.tensor([[2], [5], [len(KEPT) - 1]])
    expected = whole.decoder.next_token(whole.text.token, context)(torch.tensor(KEPT)[first], parents)
    found = few.decoder.next_token(few.text.token, context)(first, parents)
    torch.testing.assert_close(found, expected[..., list(KEPT)], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_caption_loss_is_that_of_the_whole_models_logits_of_kept_tokens() -> None:
    whole, few = _models()
    batch = _batch()
    ids, states, loss = _decoded(whole, batch)
    found = _decoded(few, batch)[2]
    assert found == pytest.approx(_loss(ids, states, whole.text.token.weight[list(KEPT)]), rel=1e-5)
    assert abs(found - loss) > 1


@torch.no_grad()
@pytest.mark.parametrize("counted", [frozenset({"cpu"}), frozenset[str]()])
def test_other_tokens_are_read_but_are_no_targets(monkeypatch: pytest.MonkeyPatch, counted: frozenset[str]) -> None:
    monkeypatch.setattr(captioning, "COUNTED", counted)
    few, batch = _models()[1], _batch()
    few.text.token.weight[-1] = fakes.unit(1)
    ids = batch.token_ids.clone()
    ids[:, 2], ids[:, 4] = 7, 50000
    ids, states, found = _decoded(few, replace(batch, token_ids=ids))
    assert found == pytest.approx(_loss(ids, states, few.text.token.weight[:-1]), rel=1e-5)


@torch.no_grad()
def test_tokens_that_are_not_kept_are_one() -> None:
    embedding = _models()[1].text.token
    embedding.weight[-1] = fakes.unit(1)
    found = embedding(torch.tensor([0, 699, 701, KEPT[3], VOCABULARY - 2, EOT]))
    assert found.equal(embedding.weight[[-1, -1, -1, 3, -1, len(KEPT) - 1]])


@torch.no_grad()
def test_likeliest_captions_are_those_of_the_whole_model() -> None:
    whole, few = _models()
    expected = whole.caption(_image(), 8)
    assert few.caption(_image(), 8) == expected
    assert len({tuple(row) for row in expected}) > 3


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_row_of_other_tokens_is_never_written(beams: int) -> None:
    few = _models()[1]
    expected = few.caption(_image(), 8, beams)
    few.text.token.weight[-1] = 1000
    assert few.caption(_image(), 8, beams) == expected
    assert {token for row in expected for token in row} <= set(KEPT[:-1])


@torch.no_grad()
def test_a_caption_ends_where_end_of_text_is_the_likeliest() -> None:
    few = _models()[1]
    few.text.token.weight[:-2] = 0
    few.decoder.norm.weight.zero_()
    few.decoder.norm.bias.copy_(few.text.token.weight[-2])
    assert few.caption(_image(), 8) == [[]] * 6


def test_with_all_tokens_it_is_a_plain_embedding() -> None:
    embedding, ids = TokenEmbedding(4), torch.tensor([[EOT, 3]])
    assert list(embedding.state_dict()) == ["weight"]
    assert embedding.weight.shape == (VOCABULARY, 4)
    assert embedding.head is embedding.weight
    assert embedding(ids).equal(embedding.weight[ids])


def test_a_token_that_no_text_held_says_nothing() -> None:
    model = BitGen(replace(fakes.MODEL, vocabulary=3), kept=(4, 9, EOT))
    assert (model.text.token.weight.abs().amax(dim=1) > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((3, EOT), "expected 3 token ids, found 2"),
        ((3, 2, EOT), "expected ascending token ids from 0, the last 50256, found [3, 2, 50256]"),
        ((3, 3, EOT), "found [3, 3, 50256]"),
        ((-3, 3, EOT), "found [-3, 3, 50256]"),
        ((3, 4, 5), "found [3, 4, 5]"),
    ],
)
def test_what_is_no_vocabulary_is_refused(kept: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TokenEmbedding(4, 3, kept)
    assert message in str(error.value)
