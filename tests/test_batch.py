import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image

from bitgen.batch import BatchError, bucket, choose_texts, whole
from bitgen.image import Transform, decode
from bitgen.record import Box, Phrase, Text, image_id
from bitgen.tokens import EOT
from bitgen.workers import Buffers
from tests.items import LEFT, RIGHT, TOKENIZER, WHOLE, Plan, begun, broken, draw, item, loaded, one, same


def test_a_batch_holds_its_images_in_order():
    batch = loaded([Plan((3, 1, 2))])[0]
    assert batch.keys == ("pets-3", "pets-1", "pets-2")
    assert batch.positions.tolist() == [3, 1, 2]
    assert batch.image_ids.tolist() == [image_id(draw(p).sample) for p in (3, 1, 2)]
    assert batch.sizes.tolist() == [[40, 30]] * 3
    assert batch.crops.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3


def test_the_pixels_are_those_of_the_image():
    batch = loaded([Plan((3, 1))], side_px=30)[0]
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 30, 30), torch.uint8)
    assert torch.equal(batch.images[1], Transform(30).resize(decode(draw(1).image), (0, 0, 40, 30)))


def test_a_row_of_tokens_is_padded_with_end_of_text():
    batch = one([Text("a man")])
    assert batch.token_ids.tolist() == [[EOT, 64, 582, EOT] + [EOT] * 12]
    assert batch.token_mask.tolist() == [[True] * 4 + [False] * 12]


def test_texts_know_their_image():
    batch = loaded([Plan((0, 1, 2))], texts_per_image=2)[0]  # of 1, 2 and 3 texts
    assert batch.text_image.tolist() == [0, 1, 1, 2, 2]
    assert batch.first_text.tolist() == [0, 1, 3]
    assert batch.second_text.tolist() == [-1, 2, 4]


def test_phrases_know_their_text_and_their_tokens():
    phrases = (Phrase(0, 5, (LEFT,)), Phrase(10, 15, (RIGHT, WHOLE)))
    batch = one([Text("no phrase"), Text("a dog and a cat", phrases), Text("a cat", (Phrase(2, 5, (WHOLE,)),))])
    assert batch.phrase_text.tolist() == [1, 1]  # two of the three texts are shown
    assert batch.phrase_slot.tolist() == [0, 1]
    assert batch.phrase_tokens.tolist() == [[1, 3], [4, 6]]
    assert batch.boxes.tolist() == [[0.0, 0.0, 0.25, 1.0], [0.75, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    assert batch.box_phrase.tolist() == [0, 1, 1]
    assert batch.max_slots == 2


def test_a_batch_without_phrases_has_empty_ones():
    batch = one([Text("a dog")])
    assert (batch.phrase_tokens.shape, batch.boxes.shape, batch.box_phrase.shape) == ((0, 2), (0, 4), (0,))
    assert (batch.phrase_tokens.dtype, batch.boxes.dtype, batch.max_slots) == (torch.int64, torch.float32, 0)


def test_every_tensor_has_the_type_that_is_agreed():
    batch = loaded([Plan((0, 1, 2))])[0]
    whole_numbers = ["positions", "image_ids", "token_ids", "text_image", "first_text", "second_text", "phrase_text"]
    whole_numbers += ["phrase_slot", "phrase_tokens", "box_phrase", "sizes"]
    assert {getattr(batch, name).dtype for name in whole_numbers} == {torch.int64}
    assert (batch.boxes.dtype, batch.crops.dtype, batch.token_mask.dtype) == (torch.float32, torch.float32, torch.bool)


def test_a_phrase_that_is_cut_off_is_dropped_and_counted():
    text = Text("the big dog runs", (Phrase(0, 7, (LEFT,)), Phrase(8, 11, (LEFT,)), Phrase(12, 16, (RIGHT,))))
    batch = one([text], max_tokens=4)  # two tokens are left: the, big
    assert batch.phrase_tokens.tolist() == [[1, 3]]
    assert batch.dropped == {"span_truncated": 2, "box_cropped": 0, "phrase_cropped": 0, "replaced": 0}


def test_slots_close_over_a_dropped_phrase():
    text = Text("a dog, a cat", (Phrase(2, 5, (Box(0.0, 0.0, 0.01, 1.0),)), Phrase(9, 12, (WHOLE,))))
    batch = one([text], scale=0.5)
    assert batch.crops[0, 0] > 0.01  # so the first box is out
    assert (batch.phrase_slot.tolist(), batch.phrase_tokens.tolist(), batch.max_slots) == ([0], [[5, 6]], 1)


def test_boxes_move_with_the_crop():
    inner = Box(0.4, 0.4, 0.6, 0.6)
    batch = one([Text("a dog", (Phrase(2, 5, (inner,)),))], scale=0.5)
    x0, y0, x1, y1 = batch.crops[0].tolist()
    expected = [(0.4 - x0) / (x1 - x0), (0.4 - y0) / (y1 - y0), (0.6 - x0) / (x1 - x0), (0.6 - y0) / (y1 - y0)]
    np.testing.assert_allclose(batch.boxes[0].numpy(), expected, atol=1e-6)


def framed(position, attempt):
    """A black photograph of 90x70 pixels whose box is white."""
    pixels = np.zeros((70, 90, 3), dtype=np.uint8)
    pixels[21:49, 36:72] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return item(position, [Text("a dog", (Phrase(2, 5, (Box(0.4, 0.3, 0.8, 0.7),)),))], image=file.getvalue())


def white(image):
    """Corners x0 y0 x1 y1 of the white part, in pixels."""
    columns, rows = (image[0] > 127).any(0).nonzero(), (image[0] > 127).any(1).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_a_box_is_where_its_pixels_are_after_any_crop():
    batch = loaded([Plan(tuple(range(100)))], framed, side_px=64, scale=0.2)[0]
    row = batch.text_image[batch.phrase_text[batch.box_phrase]]
    seen = torch.tensor([white(batch.images[i]) for i in row])
    assert (64 * batch.boxes - seen).abs().max() <= 1  # pixel; the resize blurs the edge
    assert len(row) == 100 - batch.dropped["phrase_cropped"]
    assert 50 < len(row) < 100


def test_boxes_that_leave_the_crop_are_counted_and_so_are_their_phrases():
    edge = Box(0.0, 0.0, 0.01, 1.0)
    text = Text("a dog, a cat", (Phrase(2, 5, (edge, WHOLE)), Phrase(9, 12, (edge,))))
    batch = one([text], scale=0.5)
    assert batch.dropped == {"span_truncated": 0, "box_cropped": 2, "phrase_cropped": 1, "replaced": 0}


def test_a_text_never_outgrows_the_bucket_of_its_plan():
    batch = one([Text("dog " * 100)])
    assert batch.token_ids.shape == (1, 16)
    assert batch.token_mask.all()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_batches_are_the_same_for_any_number_of_workers(scale):
    plans = [Plan(tuple(range(first, first + 7))) for first in range(0, 35, 7)]
    alone = loaded(plans, workers=0, scale=scale)
    four = loaded(plans, workers=4, scale=scale, prefetch=3)
    assert [same(a, b) for a, b in zip(alone, four, strict=True)] == [True] * 5


def test_an_image_is_decoded_whatever_the_batch_around_it():
    together, apart = loaded([Plan((1, 2, 3))], scale=0.5)[0], loaded([Plan((2,))], scale=0.5)[0]
    assert torch.equal(together.images[1], apart.images[0])


def test_plans_without_end_are_read_a_few_at_a_time():
    taken = []

    def plans():
        for number in count():
            taken.append(number)
            yield Plan((number,))

    batches = begun(draw, plans(), texts_per_image=1, workers=2, prefetch=2)
    assert [batch.keys for batch in islice(batches, 3)] == [("pets-0",), ("pets-1",), ("pets-2",)]
    assert len(taken) == 5


def test_nothing_runs_before_the_first_batch_is_asked_for():
    before = threading.active_count()
    batches = begun(draw, [Plan((0,))], texts_per_image=1, workers=2)
    assert threading.active_count() == before
    next(batches)


@pytest.fixture
def threads() -> Iterator[set[str]]:
    """The decoding threads alive after the test."""
    left: set[str] = set()
    yield left
    assert not [t.name for t in threading.enumerate() if t.name.startswith("bitgen-decode")]


def test_threads_end_with_the_plans(threads):
    loaded([Plan((0,)), Plan((1,))])


def test_threads_end_when_the_iterator_is_closed(threads):
    batches = begun(draw, (Plan((n,)) for n in count()), texts_per_image=1, workers=2)
    next(batches)
    batches.close()


def test_an_image_that_does_not_decode_is_replaced_and_counted():
    batch = loaded([Plan((1, 2, 3))], broken({2}))[0]
    assert batch.keys == ("pets-1", "pets-1002", "pets-3")
    assert batch.dropped["replaced"] == 1


def test_nothing_else_moves_where_an_image_is_replaced():
    plans = [Plan((1, 2, 3)), Plan((4, 5, 6))]
    whole, damaged = loaded(plans, broken(())), loaded(plans, broken({2}))
    assert torch.equal(whole[0].images[::2], damaged[0].images[::2])
    assert same(whole[1], damaged[1])


def test_the_loss_of_a_replaced_image_is_logged(caplog):
    loaded([Plan((2,))], broken({2}))
    assert caplog.messages == [
        "replaced pets-2 at position 2: expected a readable JPEG, PNG or WebP image, found b'\\xff\\xd8\\xff no image'"
    ]


def test_a_position_where_nothing_decodes_stops_the_run():
    with pytest.raises(BatchError, match="expected an image that decodes in 16 draws, found none: position 7"):
        loaded([Plan((7,))], lambda position, attempt: item(position, image=b"no image"))


def test_too_many_undecodable_images_stop_the_run():
    with pytest.raises(BatchError, match=r"expected at most 1\.0% undecodable images, found 17 of 17"):
        loaded([Plan((n,)) for n in range(30)], broken(range(30)))


def test_a_few_undecodable_images_do_not_stop_the_run():
    assert len(loaded([Plan((n,)) for n in range(16)], broken(range(16)))) == 16


def test_a_higher_ceiling_lets_more_pass():
    assert len(loaded([Plan((n,)) for n in range(30)], broken(range(30)), ceiling=1.0)) == 30


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_source_comes_through_with_its_position(workers, threads):
    def fail(position, attempt):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        loaded([Plan((7,))], fail, workers=workers)
    assert caught.value.__notes__ == ["while making the sample at position 7"]


def test_a_bug_comes_through_with_the_sample_s_key(threads):
    def strange(position, attempt):
        return item(position)._replace(image="not bytes")

    with pytest.raises(TypeError) as caught:
        loaded([Plan((7,))], strange)
    assert caught.value.__notes__ == ["of the sample pets-7", "while making the sample at position 7"]


def test_a_sample_without_a_text_is_refused():
    with pytest.raises(BatchError, match="expected a text for every image, found none: pets-5"):
        one([])


def test_control_c_ends_the_loader():
    code = (
        "from itertools import count\n"
        "from tests.items import *\n"
        "plans = (Plan(tuple(range(n, n + 8))) for n in count())\n"
        "for batch in begun(draw, plans, texts_per_image=1, workers=2): print(batch.keys[0], flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "pets-0\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert child.returncode == -signal.SIGINT


def test_texts_rotate_by_the_epoch_of_the_source():
    texts = [Text("one"), Text("two"), Text("three")]
    batch = loaded([Plan((5,))], lambda position, attempt: item(position, texts, epoch=4))[0]
    assert [TOKENIZER.decode(row.tolist()) for row in batch.token_ids] == ["two", "three"]


@pytest.mark.parametrize(
    ("texts", "epoch", "wanted", "chosen"),
    [(5, 0, 1, (0,)), (5, 7, 1, (2,)), (5, 4, 3, (4, 0, 1)), (2, 1, 4, (1, 0)), (1, 9, 4, (0,))],
)
def test_the_texts_of_an_epoch_follow_each_other(texts, epoch, wanted, chosen):
    assert choose_texts(texts, epoch, wanted) == chosen


def test_every_text_comes_first_once_in_as_many_epochs():
    assert [choose_texts(3, epoch, 2)[0] for epoch in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_bucket_is_the_smallest_that_fits():
    assert [bucket(n) for n in (0, 16, 17, 32, 64, 65, 128, 129, 256)] == [16, 16, 32, 32, 64, 128, 128, 256, 256]


def test_a_row_longer_than_256_has_no_bucket():
    with pytest.raises(ValueError, match="expected at most 256 tokens, found 257"):
        bucket(257)


def stored(position, *texts, **rest):
    found = item(position, *texts, **rest)
    return position, found.sample, found.image


def test_an_evaluation_batch_has_all_texts_and_the_whole_image():
    texts = [Text("one"), Text("two"), Text("a dog, " * 8, (Phrase(2, 5, (LEFT,)),))]
    batch = whole([stored(3, texts), stored(4)], 24, TOKENIZER)
    assert batch.text_image.tolist() == [0, 0, 0, 1]
    assert batch.token_ids.shape == (4, 32)
    assert batch.crops.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2
    assert batch.boxes.tolist() == [[0.0, 0.0, 0.25, 1.0]]


def test_an_evaluation_image_is_never_replaced():
    with pytest.raises(BatchError, match=r"expected a readable JPEG, PNG or WebP image, found .*: pets-4"):
        whole([stored(3), stored(4, image=b"no image")], 24, TOKENIZER)


def test_a_batch_that_is_held_is_left_alone():
    stream = begun(draw, [Plan((n,)) for n in range(40)], workers=2, prefetch=0)
    held = next(stream).images[0, 1:]
    before = held.clone()
    assert len(list(stream)) == 39
    assert torch.equal(held, before)


def test_memory_is_used_again_when_no_view_of_it_is_left():
    buffers = Buffers(1)
    images = buffers.take(2, (8, 8, 3))
    place, view = images.data_ptr(), images[0].numpy()
    del images
    assert buffers._free == []
    del view
    assert [array.ctypes.data for array in buffers._free] == [place]
    assert buffers.take(2, (8, 8, 3)).data_ptr() == place


def test_no_more_memory_is_kept_than_asked_for():
    buffers = Buffers(1)
    for images in [buffers.take(2, (8, 8, 3)), buffers.take(2, (8, 8, 3))]:
        del images
    assert len(buffers._free) <= 1


@pytest.mark.gpu
def test_pinned_batches_are_page_locked():
    batch = loaded([Plan((0, 1))], is_pinned=True)[0]
    assert all(
        tensor.is_pinned() for tensor in vars(batch).values() if isinstance(tensor, torch.Tensor) and len(tensor)
    )
