"""Which towers have the same features, and what a loss of features is beside that of the images."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitgen.batch import Batch
from bitgen.features import FeatureForm, Kind
from bitgen.model.bitgen import build_tower
from bitgen.model.vision import VisionTower
from bitgen.objectives.total import Objective, draw
from bitgen.training.config import VisionConfig
from bitgen.training.features import FeatureRecipe, constant_steps, members, tower_sha256
from bitgen.training.schedule import Schedule
from tests import fakes
from tests.worlds_of_features import in_place_of_images


def tower(seed: int = 0, **fields: object) -> VisionTower:
    torch.manual_seed(seed)
    return build_tower(replace(fakes.VISION, **fields))  # pyright: ignore[reportArgumentType] (fields of VisionConfig)


def test_a_tower_is_the_same_with_and_without_idle_adapters() -> None:
    plain = tower(mode="frozen")
    adapted = tower(seed=1)
    adapted.load_state_dict(
        {
            name: plain.state_dict().get(name.replace(".base_layer.", "."), tensor)
            for name, tensor in adapted.state_dict().items()
        }
    )
    assert tower_sha256(adapted) == tower_sha256(plain)
    with torch.no_grad():
        images = fakes.fake_batch().images
        assert adapted(images).equal(plain(images))


def _busy(found: VisionTower, factor: float = 1.0) -> VisionTower:
    for name, parameter in found.lora_parameters():
        if ".lora_B." in name:
            torch.nn.init.constant_(parameter, factor)
    return found


@pytest.mark.parametrize(
    "other",
    [
        lambda: tower(seed=1),
        lambda: tower(random_heads=4),
        lambda: _busy(tower()),
        lambda: _busy(tower(lora_alpha=4.0)),
    ],
)
def test_another_tower_is_told(other) -> None:
    assert tower_sha256(other()) != tower_sha256(tower())


def test_busy_adapters_are_told_from_each_other() -> None:
    found = [_busy(tower()), _busy(tower(), 2.0), _busy(tower(lora_alpha=4.0))]
    assert len(set(map(tower_sha256, found))) == 3


@pytest.mark.parametrize(
    "changed",
    [{"image_px": 28}, {"kind": "fp16"}, {"precision": torch.bfloat16}],
)
def test_another_recipe_is_told(changed: dict[str, object]) -> None:
    asked = {"image_px": fakes.SIDE, "kind": "int8", "precision": torch.float32}
    one, other = (FeatureRecipe.of(tower(), **each) for each in (asked, asked | changed))  # pyright: ignore
    assert one.sha256 != other.sha256
    assert one.sha256 == FeatureRecipe.of(tower(), **asked).sha256  # pyright: ignore


def test_features_of_the_last_layers_side_by_side_are_another_recipe() -> None:
    found = {FeatureRecipe.of(tower(feature_layers=k), 56, "int8", torch.float32).sha256 for k in (1, 2)}
    assert len(found) == 2


SCHEDULE = Schedule(4, 8, 1, 3)


@pytest.mark.parametrize(("mode", "steps"), [("frozen", 8), ("lora", 3)])
def test_a_tower_stays_as_it_is_until_the_thaw_or_the_end(mode: str, steps: int) -> None:
    vision = VisionConfig(mode=mode)  # pyright: ignore[reportArgumentType]
    config = fakes.config(model={"vision": vision})
    assert constant_steps(config, SCHEDULE) == steps


def test_an_image_that_does_not_decode_has_the_member_that_says_so() -> None:
    found, recipe = tower(), FeatureRecipe.of(tower(), fakes.SIDE, "int8", torch.float32)
    images = fakes.fake_batch(3).images
    made = list(members(found, recipe, images, [True, False, True]))
    assert made[1] == recipe.form.absent
    assert [made[0], made[2]] == recipe.form.members(found(images))[::2]


def _losses(objective: Objective, batch: Batch) -> dict[str, Tensor]:
    draws = draw(0, 0, len(batch.keys), fakes.PATCHES, torch.device("cpu"))
    return objective(batch, draws)


@pytest.mark.parametrize(
    ("kind", "ternary", "tolerance"),
    [("int8", True, 0.01), ("fp16", True, 0.01), ("int8", False, 0.002), ("fp16", False, 0.0002)],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_losses_of_features_are_those_of_images(kind: Kind, ternary: bool, tolerance: float, layers: int) -> None:
    """Ternary layers round what goes into them to 8 bits, so that a difference in the last digit may become one of 1/127."""
    vision = replace(fakes.VISION, feature_layers=layers)
    one, other = (fakes.model(vision=vision, ternary=ternary) for _ in range(2))
    weights = fakes.losses(itc=1.0, itm=0.5, text=0.5, memory_kl=0.1, grounding=0.5, region=1.0)
    batch = fakes.fake_batch(8)
    form = FeatureForm(fakes.PATCHES, one.vision.width, kind)
    images = _losses(Objective(one, weights), batch)
    stored = _losses(Objective(other, weights), in_place_of_images(batch, other.vision, form))
    assert images.keys() == stored.keys()
    losses = {name: value for name, value in images.items() if value.requires_grad}
    for name, value in losses.items():
        torch.testing.assert_close(stored[name], value, rtol=tolerance, atol=0, msg=f"{name} {stored[name]} {value}")
    assert not stored["loss"].equal(images["loss"])
