"""The full-precision twin: `model.ternary` changes what layers compute, not what they hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import BitLinear
from bitgen.training import checkpoint
from tests import fakes
from tests.trainings import after, start


def _shapes(model: BitGen) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def test_twins_have_the_same_parameters_by_name_shape_and_number() -> None:
    ternary, full = fakes.model(ternary=True), fakes.model(ternary=False)
    assert _shapes(ternary) == _shapes(full)
    assert [p.shape for p in ternary.parameters()] == [p.shape for p in full.parameters()]


def test_twins_start_from_the_same_numbers() -> None:
    ternary, full = fakes.model(ternary=True).state_dict(), fakes.model(ternary=False).state_dict()
    assert [name for name in ternary if not ternary[name].equal(full[name])] == []


def test_the_switch_reaches_text_fusion_and_decoder_and_no_head() -> None:
    ternary, full = (
        {
            name.split(".")[0]
            for name, m in fakes.model(ternary=on).named_modules()
            if isinstance(m, BitLinear) and m.ternary
        }
        for on in (True, False)
    )
    assert ternary == {"text", "image_layers", "decoder"}
    assert full == set()


@pytest.mark.parametrize("ternary", [False, True])
def test_a_checkpoint_of_one_loads_into_the_other(tmp_path: Path, ternary: bool) -> None:
    start(tmp_path, fakes.config(model={"ternary": ternary}), should_stop=after(1))
    folder = checkpoint.find(tmp_path, last=True)
    same, twin = fakes.model(1, ternary=ternary), fakes.model(2, ternary=not ternary)
    for model in (same, twin):
        checkpoint.load_weights(model, folder)
    expected, found = same.state_dict(), twin.state_dict()
    assert [name for name in expected if not found[name].equal(expected[name])] == []


def _on_the_grid() -> Tensor:
    """[40, 128] whole multiples of a token's own step, 127 of them at most and at least once."""
    codes = torch.randint(-127, 128, (40, 128), generator=torch.Generator().manual_seed(1)).float()
    codes[:, 0] = 127
    return codes * torch.logspace(-3, 3, 40)[:, None]


def _twins(weight: Tensor) -> tuple[BitLinear, BitLinear]:
    layers = BitLinear(128, 64), BitLinear(128, 64, ternary=False)
    for layer in layers:
        layer.load_state_dict({"weight": weight})
    return layers


def test_twins_agree_where_there_is_nothing_to_round() -> None:
    signs = torch.randint(0, 2, (64, 128), generator=torch.Generator().manual_seed(2)).float() * 2 - 1
    ternary, full = _twins(0.037 * signs)
    x = _on_the_grid()
    torch.testing.assert_close(ternary(x), full(x), rtol=1e-5, atol=1e-5)


def test_weights_that_are_ternary_already_keep_their_codes_and_shrink_by_their_share_of_zeros() -> None:
    codes = torch.randint(-1, 2, (64, 128), generator=torch.Generator().manual_seed(3)).float()
    ternary, full = _twins(0.037 * codes)
    x, share = _on_the_grid(), codes.abs().mean()
    # The mean magnitude counts the zeros too, so only weights without any are a fixed point of absmean.
    torch.testing.assert_close(ternary(x), share * full(x), rtol=1e-5, atol=1e-5)
