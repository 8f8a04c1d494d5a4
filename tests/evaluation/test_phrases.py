import torch
from torch import tensor

from bitgen.batch import Batch
from bitgen.evaluation.phrases import Donors, split, text_rows


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


def test_every_phrase_gets_the_words_of_another_image():
    rows, kept = Donors(seed=0).swap(three_images())
    assert kept.tolist() == [0, 1, 2, 3]
    assert rows.text_image.tolist() == [0, 0, 1, 2]
    # The tens digit of a word is its image, counted from 1.
    owners = rows.token_ids[:, 1] // 10 - 1
    assert not (owners == rows.text_image).any()


def test_the_borrowed_span_lies_on_the_borrowed_words():
    rows, _ = Donors(seed=3).swap(batch([70, 80], [(0, [11, 12, 13]), (1, [21, 22])], [(0, 0, 1, 3), (1, 0, 2, 3)]))
    assert rows.token_ids[0].tolist() == [50256, 21, 22, 50256, 50256]
    assert rows.token_mask[0].tolist() == [True, True, True, True, False]
    assert rows.phrase_tokens.tolist() == [[2, 3], [1, 3]]


def test_equal_seeds_give_equal_texts():
    one, _ = Donors(seed=5).swap(three_images())
    two, _ = Donors(seed=5).swap(three_images())
    assert torch.equal(one.token_ids, two.token_ids)
    assert torch.equal(one.phrase_tokens, two.phrase_tokens)


def test_other_words_are_preferred_to_the_same_words_of_another_image():
    same_but_one = batch([70, 80, 90], [(0, [11]), (1, [11]), (2, [31])], [(0, 0, 1, 2), (1, 0, 1, 2), (2, 0, 1, 2)])
    rows, _ = Donors(seed=0).swap(same_but_one)
    assert rows.token_ids[:2, 1].tolist() == [31, 31]


def test_the_same_words_are_taken_where_every_image_has_them():
    rows, kept = Donors(seed=0).swap(batch([70, 80], [(0, [11]), (1, [11])], [(0, 0, 1, 2), (1, 0, 1, 2)]))
    assert kept.tolist() == [0, 1]
    assert rows.token_ids[:, 1].tolist() == [11, 11]


def test_a_phrase_without_another_image_is_left_out():
    rows, kept = Donors(seed=0).swap(batch([70], [(0, [11])], [(0, 0, 1, 2)]))
    assert len(kept) == 0
    assert rows.token_ids.shape == (0, 0)


def test_one_photograph_in_two_rows_gives_nothing_to_itself():
    _, kept = Donors(seed=0).swap(batch([70, 70], [(0, [11]), (1, [21])], [(0, 0, 1, 2), (1, 0, 1, 2)]))
    assert len(kept) == 0


def test_a_batch_of_one_image_borrows_from_the_batch_before():
    donors = Donors(seed=0)
    donors.swap(batch([70], [(0, [11, 12, 13])], [(0, 0, 1, 4)]))
    rows, kept = donors.swap(batch([80], [(0, [21])], [(0, 0, 1, 2)]))
    assert kept.tolist() == [0]
    assert rows.token_ids[0, 1:4].tolist() == [11, 12, 13]
