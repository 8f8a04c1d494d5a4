"""The queue of past features."""

import pytest
import torch

from bitgen.objectives.queue import FeatureQueue


def _enqueue(queue: FeatureQueue, *values: int) -> None:
    """Entries whose features are [v, -v] and whose id is v."""
    rows = torch.tensor([[float(v), -float(v)] for v in values])
    queue.enqueue(rows, 10 * rows, torch.tensor(values))


def test_a_new_queue_counts_nothing() -> None:
    assert FeatureQueue(3, 2).filled.tolist() == [False] * 3


def test_only_filled_slots_count() -> None:
    queue = FeatureQueue(4, 2)
    _enqueue(queue, 1, 2)
    assert queue.filled.tolist() == [True, True, False, False]


def test_images_texts_and_ids_stay_together() -> None:
    queue = FeatureQueue(3, 2)
    _enqueue(queue, 1, 2)
    assert queue.images.tolist() == [[1, -1], [2, -2], [0, 0]]
    assert queue.texts.tolist() == [[10, -10], [20, -20], [0, 0]]
    assert queue.image_ids.tolist() == [1, 2, 0]


def test_the_oldest_are_overwritten_across_the_end() -> None:
    queue = FeatureQueue(5, 2)
    _enqueue(queue, 1, 2, 3)
    _enqueue(queue, 4, 5, 6, 7)
    assert queue.image_ids.tolist() == [6, 7, 3, 4, 5]
    _enqueue(queue, 8)
    assert queue.image_ids.tolist() == [6, 7, 8, 4, 5]


@pytest.mark.parametrize("before", [[], [1], [1, 2, 3, 4]])
def test_of_more_rows_than_slots_the_last_are_kept(before: list[int]) -> None:
    queue = FeatureQueue(3, 2)
    _enqueue(queue, *before, 9, 8, 7, 6, 5)
    assert sorted(queue.image_ids.tolist()) == [5, 6, 7]
    assert queue.filled.all()


def test_what_follows_more_rows_than_slots_takes_the_oldests_place() -> None:
    queue = FeatureQueue(3, 2)
    _enqueue(queue, 1, 2, 3, 4, 5)
    _enqueue(queue, 6)
    assert sorted(queue.image_ids.tolist()) == [4, 5, 6]


def test_a_queue_of_no_slots_holds_nothing() -> None:
    queue = FeatureQueue(0, 2)
    _enqueue(queue, 1)
    assert queue.filled.shape == (0,)


def test_nothing_in_it_trains_and_all_of_it_is_saved() -> None:
    queue = FeatureQueue(3, 2)
    assert list(queue.parameters()) == []
    assert sorted(queue.state_dict()) == ["count", "image_ids", "images", "texts"]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_an_entry_is_as_old_as_the_micro_steps_since_it_came(rows: int) -> None:
    queue = FeatureQueue(5, 2)
    for step in range(7):
        _enqueue(queue, *[step] * rows)
        ages = [step + 1 - came for came in queue.image_ids.tolist()]
        filled = queue.filled.tolist()
        found = queue.ages(rows).tolist()
        assert [age for age, there in zip(found, filled, strict=True) if there] == ages[: sum(filled)]
