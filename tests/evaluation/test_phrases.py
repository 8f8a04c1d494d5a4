from dataclasses import replace

import pytest
import torch
from torch import Tensor, tensor

from bitgen.batch import Batch
from bitgen.evaluation.phrases import Donors, TextRows, split, text_rows


def batch(image_ids: list[int], texts: list[tuple[int, list[int]]], phrases: list[tuple[int, int, int, int]]) -> Batch:
    """Texts are (image row, word ids); phrases are (text row, slot, start, stop). Rows are padded to eight tokens."""
    ids = torch.full((len(texts), 8), 50256)
    mask = torch.zeros(len(texts), 8, dtype=torch.bool)
    for row, (_, words) in enumerate(texts):
        ids[row, 1 : 1 + len(words)] = tensor(words)
        mask[row, : len(words) + 2] = True
    count = len(image_ids)
    return Batch(
        keys=tuple(str(i) for i in image_ids),
        positions=torch.arange(count),
        image_ids=tensor(image_ids),
        images=torch.zeros(count, 3, 14, 14, dtype=torch.uint8),
        token_ids=ids,
        token_mask=mask,
        text_image=tensor([image for image, _ in texts]),
        first_text=torch.arange(count),
        second_text=torch.full((count,), -1),
        phrase_text=tensor([p[0] for p in phrases], dtype=torch.int64),
        phrase_slot=tensor([p[1] for p in phrases], dtype=torch.int64),
        phrase_tokens=tensor([p[2:] for p in phrases], dtype=torch.int64).reshape(-1, 2),
        boxes=tensor([[0.1, 0.1, 0.5, 0.5]]).repeat(len(phrases), 1),
        box_phrase=torch.arange(len(phrases)),
        crops=tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1),
        sizes=tensor([[100, 100]]).repeat(count, 1),
        max_slots=2,
        dropped={},
    )


def three_images() -> Batch:
    texts = [(0, [11, 12, 13]), (1, [21, 22]), (1, [24]), (2, [31, 32, 33, 34])]
    return batch([70, 80, 90], texts, [(0, 0, 1, 3), (0, 1, 3, 4), (1, 0, 1, 3), (3, 0, 2, 5)])


def test_texts_without_phrases_are_left_out_of_the_rows():
    rows = text_rows(three_images())
    assert rows.token_ids[:, 1].tolist() == [11, 21, 31]
    assert rows.phrase_text.tolist() == [0, 0, 1, 2]
    assert rows.text_image.tolist() == [0, 1, 2]


def test_split_rows_number_their_texts_from_zero():
    first, second = split(text_rows(three_images()), 2)
    assert first.phrase_text.tolist() == [0, 0, 1]
    assert second.phrase_text.tolist() == [0]
    assert second.phrase_tokens.tolist() == [[2, 5]]
    assert second.text_image.tolist() == [2]


def three_given(seed: int, size: int) -> tuple[list[list[int]], list[int]]:
    """Of the phrases of `three_images`, `size` images a batch, the words that each is given, and their images' numbers."""
    whole, donors = three_images(), Donors(seed)
    texts, phrases = [[0], [1, 2], [3]], [[0, 1], [2], [3]]
    given: dict[int, tuple[list[int], int]] = {}

    def note(one: Batch, rows: TextRows, kept: Tensor) -> None:
        for row, number in enumerate(kept.tolist()):
            start, stop = rows.phrase_tokens[row].tolist()
            words = rows.token_ids[row, start:stop].tolist()
            image = int(one.image_ids[rows.text_image[row]])
            given[first[int(one.positions[0])] + number] = words, image

    first = {0: 0, 1: 2, 2: 3}
    for start in range(0, 3, size):
        images = list(range(start, min(3, start + size)))
        rows = [row for image in images for row in texts[image]]
        kept = [phrase for image in images for phrase in phrases[image]]
        part = batch(
            whole.image_ids[images].tolist(),
            [
                (images.index(int(whole.text_image[r])), whole.token_ids[r][whole.token_mask[r]].tolist()[1:-1])
                for r in rows
            ],
            [
                (rows.index(int(whole.phrase_text[p])), int(whole.phrase_slot[p]), *whole.phrase_tokens[p].tolist())
                for p in kept
            ],
        )
        part = replace(part, positions=tensor(images))
        note(part, *donors.swap(part))
    for part, rows, kept in donors.rest():
        note(part, rows, kept)
    return [given[n][0] for n in sorted(given)], [given[n][1] for n in sorted(given)]


def test_every_phrase_gets_the_words_of_another_image():
    words, images = three_given(seed=0, size=3)
    assert images == [70, 70, 80, 90]
    # The tens digit of a word is its image, counted from 1, and images are 70, 80, 90.
    owners = [10 * (each[0] // 10) + 60 for each in words]
    assert all(owner != image for owner, image in zip(owners, images, strict=True))


@pytest.mark.parametrize("size", [1, 2])
def test_the_words_do_not_depend_on_how_many_images_a_batch_has(size: int):
    for seed in range(20):
        assert three_given(seed, size) == three_given(seed, 3)


def test_phrases_that_come_first_wait_for_other_images():
    donors = Donors(seed=3)
    both = batch([70, 80], [(0, [11, 12, 13]), (1, [21, 22])], [(0, 0, 1, 3), (1, 0, 2, 3)])
    _, kept = donors.swap(both)
    (waited, rows, first), *more = donors.rest()
    assert (kept.tolist(), first.tolist(), more, waited is both) == ([1], [0], [], True)
    assert rows.token_ids[0].tolist() == [50256, 21, 22, 50256]
    assert rows.text_image.tolist() == [0]


def test_the_borrowed_span_lies_on_the_borrowed_words():
    rows, kept = Donors(seed=3).swap(
        batch(
            [70, 80, 90], [(0, [11, 12, 13]), (1, [11, 12, 13]), (2, [21])], [(0, 0, 1, 3), (1, 0, 1, 3), (2, 0, 1, 2)]
        )
    )
    assert kept.tolist() == [1, 2]
    assert rows.token_ids[1].tolist() == [50256, 11, 12, 13, 50256]
    assert rows.token_mask[1].tolist() == [True] * 5
    assert rows.phrase_tokens.tolist() == [[1, 3], [1, 3]]


def test_equal_seeds_give_equal_texts():
    assert three_given(seed=5, size=3) == three_given(seed=5, size=3)
    assert any(three_given(seed, 3) != three_given(5, 3) for seed in range(5))


def test_other_words_are_preferred_to_the_same_words_of_another_image():
    same_but_one = batch([70, 80, 90], [(0, [31]), (1, [11]), (2, [11])], [(0, 0, 1, 2), (1, 0, 1, 2), (2, 0, 1, 2)])
    rows, _ = Donors(seed=0).swap(same_but_one)
    assert rows.token_ids[:, 1].tolist() == [31, 31]


def test_the_same_words_are_taken_where_every_image_has_them():
    rows, kept = Donors(seed=0).swap(batch([70, 80], [(0, [11]), (1, [11])], [(0, 0, 1, 2), (1, 0, 1, 2)]))
    assert kept.tolist() == [1]
    assert rows.token_ids[:, 1].tolist() == [11]


def test_a_phrase_without_another_image_is_left_out():
    donors = Donors(seed=0)
    rows, kept = donors.swap(batch([70], [(0, [11])], [(0, 0, 1, 2)]))
    assert len(kept) == 0
    assert rows.token_ids.shape == (0, 0)
    assert list(donors.rest()) == []


def test_one_photograph_in_two_rows_gives_nothing_to_itself():
    donors = Donors(seed=0)
    _, kept = donors.swap(batch([70, 70], [(0, [11]), (1, [21])], [(0, 0, 1, 2), (1, 0, 1, 2)]))
    assert (len(kept), list(donors.rest())) == (0, [])
