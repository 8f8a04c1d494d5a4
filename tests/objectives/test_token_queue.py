"""The queue of past token states, against a list of Python."""

import pytest
import torch
from torch import Tensor

from bitgen.objectives.token_queue import Pairs, TokenQueue
from tests import fakes

N, L, D = 3, 8, 4
"""Patches, widest bucket, width."""


def _pairs(ids: list[int], tokens: int = L, longest: int = 8) -> Pairs:
    """Pairs whose numbers depend on their id alone; texts of 2 to `longest` tokens in a bucket of `tokens`."""
    lengths = torch.tensor([min(2 + id_ % 7, longest) for id_ in ids], dtype=torch.int64)
    mask = torch.arange(tokens) < lengths[:, None]

    def one(shape: tuple[int, ...], salt: int) -> Tensor:
        return (
            torch.stack([fakes.noise(*shape, seed=100 * id_ + salt) for id_ in ids]) if ids else torch.zeros(0, *shape)
        )

    texts = one((L, D), 1)[:, :tokens]
    return Pairs(one((N, D), 0), texts, mask, one((D,), 2), one((D,), 3), torch.tensor(ids, dtype=torch.int64))


def _queue(size: int = 5) -> TokenQueue:
    return TokenQueue(size, N, L, D)


@pytest.mark.parametrize("sizes", [[2, 4, 1, 3], [3, 3, 3], [5, 1], [7, 2], [1, 12, 4], [4, 5, 6]])
def test_it_holds_the_last_pairs_where_a_list_puts_them(sizes: list[int]) -> None:
    queue, slots, place, coming = _queue(), [-1] * 5, 0, iter(range(1, 100))
    for size in sizes:
        ids = [next(coming) for _ in range(size)]
        queue.enqueue(_pairs(ids))
        for id_ in ids[-5:]:
            slots[place % 5] = id_
            place += 1
    filled = [slot for slot, id_ in enumerate(slots) if id_ > 0]
    assert queue.filled.nonzero()[:, 0].tolist() == filled
    expected, found = _pairs([slots[slot] for slot in filled]), queue.entries(L)
    for name in ("image_states", "text_states"):
        assert getattr(found, name)[filled].equal(getattr(expected, name).bfloat16())
    for name in ("text_mask", "image_embeddings", "text_embeddings", "image_ids"):
        assert getattr(found, name)[filled].equal(getattr(expected, name))


def test_a_text_of_a_narrower_bucket_is_padded_under_the_mask() -> None:
    queue = _queue(2)
    queue.enqueue(_pairs([5, 6]))  # 7 and 8 tokens, whose places the next two take
    queue.enqueue(_pairs([1, 2], tokens=4))
    assert queue.text_mask.sum(dim=1).tolist() == [3, 4]
    assert queue.text_states[:, 4:].count_nonzero() == 0


@pytest.mark.parametrize(
    ("tokens", "fits"), [(8, [1, 1, 1, 0]), (7, [1, 0, 1, 0]), (3, [1, 0, 0, 0]), (2, [0, 0, 0, 0])]
)
def test_only_filled_entries_whose_text_has_room_fit(tokens: int, fits: list[int]) -> None:
    queue = _queue(4)
    queue.enqueue(_pairs([1, 6, 3]))  # of 3, 8 and 5 tokens
    assert queue.fits(tokens).int().tolist() == fits


def test_entries_are_as_wide_as_asked() -> None:
    entries = _queue(4).entries(6)
    assert (entries.text_states.shape, entries.text_mask.shape) == ((4, 6, D), (4, 6))


def test_it_takes_256_mib_for_the_default_number_of_images() -> None:
    with torch.device("meta"):
        queue = TokenQueue(4096, 256, 256, 128)
    assert (queue.image_states.nbytes, queue.text_states.nbytes) == (256 * 2**20, 256 * 2**20)


def test_nothing_in_it_trains_and_all_of_it_is_saved() -> None:
    queue = _queue()
    features = {f"features.{name}" for name in ("images", "texts", "image_ids", "count")}
    assert list(queue.parameters()) == []
    assert queue.state_dict().keys() == features | {"image_states", "text_states", "text_mask"}


def test_what_it_holds_has_no_gradient() -> None:
    queue, pairs = _queue(), _pairs([1, 2])
    queue.enqueue(pairs._replace(image_states=pairs.image_states.requires_grad_()))
    assert not queue.image_states.requires_grad


def test_a_queue_of_no_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a queue of token states to have a slot or more, found 0"):
        _queue(0)


@pytest.mark.parametrize(("patches", "tokens"), [(N + 1, L), (N, L + 1)])
def test_states_of_another_shape_are_a_bug(patches: int, tokens: int) -> None:
    pairs = _pairs([1])
    other = pairs._replace(
        image_states=torch.zeros(1, patches, D),
        text_states=torch.zeros(1, tokens, D),
        text_mask=torch.ones(1, tokens, dtype=torch.bool),
    )
    with pytest.raises(AssertionError, match="expected"):
        _queue().enqueue(other)
