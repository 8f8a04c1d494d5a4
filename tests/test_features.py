import io

import numpy as np
import pytest
import torch

from bitgen.features import FeatureForm, pack, unpack
from bitgen.pixels import DecodeError
from tests import fakes
from tests.items import Plan, begun, item, loaded

FORM = FeatureForm(4, 6, "int8")
KINDS = ["int8", "fp16"]


def features(images: int = 3) -> torch.Tensor:
    """Tokens of very different sizes, one of them zero."""
    found = fakes.noise(images, 4, 6) * torch.tensor([1.0, 30.0, 0.01, 0.0])[:, None]
    found[0, 0, 0] = 8.0
    return found


def test_an_int8_value_is_off_by_half_a_step_at_most() -> None:
    found = features()
    largest = found.abs().amax(dim=-1, keepdim=True)
    error = (unpack(pack(found, "int8")) - found).abs()
    assert (error <= largest / 254 * 1.01 + 1e-7).all()
    assert error.max() > largest.max() / 1000


def test_a_half_is_off_by_a_thousandth_at_most() -> None:
    found = features()
    torch.testing.assert_close(unpack(pack(found, "fp16").view(torch.float16)), found, rtol=2**-11, atol=1e-7)


def test_what_is_not_finite_does_not_become_a_number() -> None:
    found = features()
    found[1, 2, 3] = torch.nan
    assert not unpack(pack(found, "int8"))[1, 2].isfinite().any()


def test_numpy_reads_int8_features() -> None:
    member = FORM.members(features())[1]
    found = np.load(io.BytesIO(member))
    assert (found.shape, found["values"].shape) == ((4,), (4, 6))
    read = found["scale"].astype(np.float32)[:, None] * found["values"]
    assert np.array_equal(read, unpack(pack(features(), "int8"))[1].numpy())


def test_numpy_reads_halves() -> None:
    found = np.load(io.BytesIO(FeatureForm(4, 6, "fp16").members(features())[1]))
    assert np.array_equal(found, features()[1].half().numpy())


def test_an_image_of_256_tokens_of_768_takes_197_kb() -> None:
    form = FeatureForm(256, 768, "int8")
    assert len(form.members(torch.zeros(1, 256, 768))[0]) == form.size_bytes == 256 * (2 + 768) + 192


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_features_in_place_of_images(kind: str) -> None:
    form = FeatureForm(4, 6, kind)  # pyright: ignore[reportArgumentType] (one of two)
    members = form.members(features(8))
    plans = [Plan((3, 1)), Plan((7, 0))]
    found = [
        list(begun(lambda p, a: item(p, image=members[p]), plans, form, is_forked=is_forked))
        for is_forked in (False, True)
    ]
    for batches in found:
        assert [batch.keys for batch in batches] == [("pets-3", "pets-1"), ("pets-7", "pets-0")]
        stored = [batch.features for batch in batches if batch.features is not None]
        wanted = unpack(pack(features(8), form.kind) if kind == "int8" else features(8).half())
        assert torch.equal(unpack(torch.cat(stored)), wanted[[3, 1, 7, 0]])
        assert batches[0].images.shape == (2, 3, 0, 0)
        assert batches[0].sizes.tolist() == [[40, 30]] * 2
        assert batches[0].crops.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2


def test_a_batch_of_images_has_no_features() -> None:
    assert loaded([Plan((1,))])[0].features is None


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (FORM.absent, "found an image that did not decode"),
        (FeatureForm(4, 7, "int8").members(torch.zeros(1, 4, 7))[0], 'found b".x93NUMPY'),
        (FeatureForm(4, 6, "fp16").members(torch.zeros(1, 4, 6))[0], 'found b".x93NUMPY'),
        (FORM.members(torch.zeros(1, 4, 6))[0][:-1], 'found b".x93NUMPY'),
        (b"\xff\xd8\xff no features", "found b'.xff"),
    ],
)
def test_what_is_not_of_the_form_is_refused(stored: bytes, found: str) -> None:
    with pytest.raises(DecodeError, match=rf"expected int8 features of 4 x 6, {found}"):
        FORM.fill(stored, (4, 4), torch.zeros(FORM.shape, dtype=torch.uint8), 0, 0, 100)


def test_features_of_another_shape_are_not_stored() -> None:
    with pytest.raises(ValueError, match=r"expected features \[4, 6\], came \[4, 5\]"):
        FORM.members(torch.zeros(1, 4, 5))
