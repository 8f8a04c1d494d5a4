import pytest
import torch
from torch import Tensor, tensor

from bitgen.boxes import aligned_overlap, enclose, generalised_overlap, overlap, to_centres, to_corners


def slow_overlap(a: list[float], b: list[float], grid: int) -> float:
    """Counts cells of a grid whose lines hold every corner of both boxes."""
    cells = [((x + 0.5) / grid, (y + 0.5) / grid) for x in range(grid) for y in range(grid)]
    in_a = [a[0] < x < a[2] and a[1] < y < a[3] for x, y in cells]
    in_b = [b[0] < x < b[2] and b[1] < y < b[3] for x, y in cells]
    either = sum(p or q for p, q in zip(in_a, in_b, strict=True))
    return sum(p and q for p, q in zip(in_a, in_b, strict=True)) / either


def random_boxes(count: int, grid: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, grid - 1, (count, 2), generator=generator)
    size = 1 + (torch.rand(count, 2, generator=generator) * (grid - low)).long().clamp(max=grid - 1)
    return torch.cat((low, torch.minimum(low + size, tensor(grid))), dim=1) / grid


def test_overlap_of_every_pair_equals_counted_cells():
    a, b = random_boxes(6, 10, 0), random_boxes(5, 10, 1)
    expected = [[slow_overlap(p, q, 10) for q in b.tolist()] for p in a.tolist()]
    torch.testing.assert_close(overlap(a, b), tensor(expected), rtol=0, atol=1e-5)


def test_a_quarter_shared_by_two_equal_squares_gives_one_seventh():
    a, b = tensor([[0.0, 0.0, 2.0, 2.0]]), tensor([[1.0, 1.0, 3.0, 3.0]])
    torch.testing.assert_close(overlap(a, b), tensor([[1 / 7]]))


def test_aligned_overlap_is_the_diagonal_of_overlap():
    a, b = random_boxes(20, 10, 2), random_boxes(20, 10, 3)
    torch.testing.assert_close(aligned_overlap(a, b), overlap(a, b).diagonal())


def test_an_empty_set_gives_no_columns():
    assert overlap(torch.rand(3, 4), torch.empty(0, 4)).shape == (3, 0)


def test_boxes_that_only_touch_do_not_overlap():
    assert overlap(tensor([[0.0, 0.0, 0.5, 1.0]]), tensor([[0.5, 0.0, 1.0, 1.0]])).item() == 0


def test_two_boxes_without_area_give_zero():
    point = tensor([[0.5, 0.5, 0.5, 0.5]])
    assert overlap(point, point).item() == 0


def test_swapped_corners_give_no_area():
    assert aligned_overlap(tensor([[0.9, 0.9, 0.1, 0.1]]), tensor([[0.0, 0.0, 1.0, 1.0]])).item() == 0


def test_generalised_overlap_of_equal_boxes_is_one():
    boxes = random_boxes(8, 10, 4)
    torch.testing.assert_close(generalised_overlap(boxes, boxes), torch.ones(8))


def test_generalised_overlap_of_two_far_unit_squares_is_less_the_empty_share():
    # Enclosing box 3 x 1, union 2: 0 - (3 - 2) / 3.
    a, b = tensor([[0.0, 0.0, 1.0, 1.0]]), tensor([[2.0, 0.0, 3.0, 1.0]])
    torch.testing.assert_close(generalised_overlap(a, b), tensor([-1 / 3]))


def test_generalised_overlap_of_crossing_squares_by_hand():
    # Common 1, union 7, enclosing 9: 1/7 - 2/9.
    a, b = tensor([[0.0, 0.0, 2.0, 2.0]]), tensor([[1.0, 1.0, 3.0, 3.0]])
    torch.testing.assert_close(generalised_overlap(a, b), tensor([1 / 7 - 2 / 9]))


def test_two_boxes_in_one_point_have_finite_gradients():
    point = tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    generalised_overlap(point, tensor([[0.5, 0.5, 0.5, 0.5]])).sum().backward()
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()


def test_generalised_overlap_passes_a_numerical_gradient_check():
    a = random_boxes(4, 7, 5).double().requires_grad_()
    b = (random_boxes(4, 7, 6) + 0.013).double()
    assert torch.autograd.gradcheck(lambda boxes: generalised_overlap(boxes, b), (a,))


def test_half_precision_boxes_are_measured_in_float32():
    boxes = tensor([[0.5, 0.5, 0.5 + 1 / 128, 0.5 + 1 / 128]], dtype=torch.bfloat16)
    found = aligned_overlap(boxes, boxes)
    assert found.dtype == torch.float32
    assert found.item() == 1


def test_centres_and_corners_by_hand():
    torch.testing.assert_close(to_corners(tensor([[0.5, 0.4, 0.2, 0.6]])), tensor([[0.4, 0.1, 0.6, 0.7]]))


def test_centres_are_the_inverse_of_corners():
    boxes = random_boxes(9, 10, 7)
    torch.testing.assert_close(to_corners(to_centres(boxes)), boxes)


def test_enclose_takes_the_outermost_corners_of_each_group():
    boxes = tensor([[0.1, 0.5, 0.2, 0.6], [0.4, 0.2, 0.9, 0.3], [0.0, 0.0, 0.3, 0.3]])
    found = enclose(boxes, tensor([1, 1, 0]), 3)
    torch.testing.assert_close(found, tensor([[0.0, 0.0, 0.3, 0.3], [0.1, 0.2, 0.9, 0.6], [0.0, 0.0, 0.0, 0.0]]))


def test_a_tensor_that_holds_no_boxes_is_refused():
    with pytest.raises(ValueError, match="expected boxes with 4 values each"):
        overlap(torch.rand(3, 5), torch.rand(3, 4))
