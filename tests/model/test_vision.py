"""The tower against transformers' own models, at sizes made on the spot."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig

from bitgen.model.vision import Compressor, VisionError, VisionTower
from tests import fakes

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}


def _images(side: int = 28, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _random(mode: str = "lora", *, lora_layers: int = 0, feature_layers: int = 1, **fields: object) -> VisionTower:
    """`TINY` with other `fields`, its weights, though not its adapters, always the same."""
    torch.manual_seed(0)
    shape, layers = {"model_type": "dinov2", **TINY, **fields}, (lora_layers, feature_layers)
    return VisionTower("tiny", mode, "random", config=shape, lora_layers=layers[0], feature_layers=layers[1])  # pyright: ignore


def _wake(tower: VisionTower) -> VisionTower:
    """Adapters as after some training: their second factor is no longer zero."""
    for _, parameter in tower.lora_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower


def _adapted(tower: VisionTower) -> list[tuple[int, torch.nn.Parameter]]:
    """Every factor of an adapter with the number of its layer."""
    return [(int(name.split(".layer.")[1].split(".")[0]), p) for name, p in tower.lora_parameters()]


def _pixels(images: Tensor) -> Tensor:
    """What transformers' image processor gives for images that need no resizing."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (images.double() / 255 - mean) / std


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tower's weights as transformers saves them."""
    torch.manual_seed(3)
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("mode", ["lora", "frozen", "full"])
def test_stock_weights_give_the_stock_features(folder: Path, mode: str) -> None:
    stock = Dinov2Model.from_pretrained(folder).eval()
    expected = stock(pixel_values=_pixels(_images()).float()).last_hidden_state[:, 1:]
    tower = VisionTower(str(folder), mode).eval()  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(tower(_images()), expected, rtol=0, atol=1e-5)


def test_an_adapter_that_has_not_trained_changes_no_bit(folder: Path) -> None:
    assert VisionTower(str(folder), "lora")(_images()).equal(VisionTower(str(folder), "frozen")(_images()))


def test_registers_and_the_class_token_are_dropped(tmp_path: Path) -> None:
    torch.manual_seed(3)
    stock = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TINY, num_register_tokens=3)).eval()
    stock.save_pretrained(tmp_path)
    expected = stock(pixel_values=_pixels(_images()).float()).last_hidden_state[:, 4:]
    torch.testing.assert_close(VisionTower(str(tmp_path))(_images()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "patches"), [(14, 1), (28, 4), (56, 16)])
def test_there_is_a_token_for_every_patch_at_any_size(side: int, patches: int) -> None:
    assert _random()(_images(side)).shape == (2, patches, 32)


def test_positions_for_another_size_are_those_of_transformers(folder: Path) -> None:
    stock = Dinov2Model.from_pretrained(folder).eval()
    expected = stock(pixel_values=_pixels(_images(56)).float()).last_hidden_state[:, 1:]
    torch.testing.assert_close(VisionTower(str(folder))(_images(56)), expected, rtol=0, atol=1e-5)


def test_half_precision_weights_are_loaded_as_fp32(tmp_path: Path) -> None:
    Dinov2Model(Dinov2Config(**TINY)).half().save_pretrained(tmp_path)
    assert {p.dtype for p in VisionTower(str(tmp_path)).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("model", "width", "total", "adapters"),
    [
        ("facebook/dinov2-small", 384, 22_056_576, 294_912),
        ("facebook/dinov2-base", 768, 86_580_480, 589_824),
        ("facebook/dinov2-with-registers-base", 768, 86_583_552, 589_824),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(
    model: str, width: int, total: int, adapters: int
) -> None:
    with torch.device("meta"):
        tower = VisionTower(model, "lora", "random")
    counts = {name: p.numel() for name, p in tower.named_parameters()}
    lora = sum(p.numel() for _, p in tower.lora_parameters())
    assert (tower.width, sum(counts.values()) - lora, lora) == (width, total, adapters)


def test_the_compressor_has_the_documented_number_of_parameters() -> None:
    assert sum(p.numel() for p in Compressor(768).parameters()) == 344_832


def test_the_compressor_keeps_the_patches() -> None:
    assert Compressor(32, 16, 8)(torch.randn(2, 5, 32)).shape == (2, 5, 8)


def test_only_adapters_train_in_mode_lora() -> None:
    tower = _random("lora")
    trainable = {name for name, p in tower.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in tower.lora_parameters()} != set()


def test_adapters_sit_on_queries_and_values_alone() -> None:
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in _random().lora_parameters()}
    assert adapted in ({"q_proj", "v_proj"}, {"query", "value"})


@pytest.mark.parametrize(("depth", "wanted", "first"), [(5, 0, 0), (5, 1, 4), (5, 3, 2), (5, 5, 0), (24, 11, 13)])
def test_adapters_sit_on_the_last_layers_alone(depth: int, wanted: int, first: int) -> None:
    tower = _random(num_hidden_layers=depth, lora_layers=wanted)
    assert [layer for layer, _ in _adapted(tower)] == [layer for layer in range(first, depth) for _ in range(4)]


def test_a_configuration_says_which_layers_are_adapted() -> None:
    model = fakes.model(vision=replace(fakes.VISION, random_layers=3, lora_layers=1))
    assert {layer for layer, _ in _adapted(model.vision)} == {2}


def test_adapters_of_the_last_layers_are_as_if_the_others_were_zero() -> None:
    everywhere, last = _wake(_random(num_hidden_layers=4)), _random(num_hidden_layers=4, lora_layers=2)
    for layer, parameter in _adapted(everywhere):
        if layer < 2:
            torch.nn.init.zeros_(parameter)
    last.load_state_dict(
        {name: everywhere.state_dict()[name] for name in last.state_dict() if "lora" in name}, strict=False
    )
    assert last(_images()).equal(everywhere(_images()))
    assert not last(_images()).equal(_random("frozen", num_hidden_layers=4)(_images()))


@pytest.mark.parametrize("feature_layers", [1, 4])
def test_the_backward_pass_ends_at_the_lowest_adapter(feature_layers: int) -> None:
    """At the entry of every layer: whether the states may have a gradient, and whether anything was kept for one."""
    tower = _wake(_random(num_hidden_layers=4, lora_layers=2, feature_layers=feature_layers))
    saved: list[Tensor] = []
    entries: list[tuple[bool, bool]] = []
    for layer in tower.backbone.encoder.layer:
        layer.norm1.register_forward_pre_hook(lambda _, states: entries.append((states[0].requires_grad, bool(saved))))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        features = tower(_images())
    assert entries == [(False, False)] * 3 + [(True, True)]
    features.square().mean(1).sum().backward()
    reached = {name for name, p in tower.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in tower.lora_parameters()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_features_of_the_last_layers_are_the_outputs_of_shallower_towers(count: int) -> None:
    tower = _random(num_hidden_layers=3, feature_layers=count)
    found, state = tower(_images()), _random("frozen", num_hidden_layers=3).state_dict()
    for place, depth in enumerate(range(4 - count, 4)):
        shallow = _random("frozen", num_hidden_layers=depth)
        shallow.load_state_dict(state, strict=False)
        part = found[:, :, 32 * place : 32 * (place + 1)]
        torch.testing.assert_close(part, shallow(_images()), rtol=0, atol=1e-6)
    assert found.shape == (2, 4, tower.width) == (2, 4, 32 * count)


def test_more_layers_add_parameters_to_the_compressor_alone() -> None:
    one, two = (fakes.model(vision=replace(fakes.VISION, feature_layers=count)) for count in (1, 2))
    sizes = {name: p.shape for name, p in one.named_parameters()}
    changed = {name: p.shape for name, p in two.named_parameters() if p.shape != sizes.get(name)}
    assert changed == {"compressor.layers.0.weight": (24, 64)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_layers": 3}, "expected lora_layers from 0 to the tower's 2, came 3: tiny"),
        ({"lora_layers": -1}, "expected lora_layers from 0 to the tower's 2, came -1: tiny"),
        ({"feature_layers": 3}, "expected feature_layers from 1 to the tower's 2, came 3: tiny"),
        ({"feature_layers": 0}, "expected feature_layers from 1 to the tower's 2, came 0: tiny"),
    ],
)
def test_layers_that_are_not_there_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(VisionError, match=message):
        _random(**fields)  # pyright: ignore


def test_nothing_trains_in_mode_frozen() -> None:
    tower = _random("frozen")
    assert not any(p.requires_grad for p in tower.parameters())
    assert not list(tower.lora_parameters())


@pytest.mark.parametrize("feature_layers", [1, 2])
def test_everything_trains_in_mode_full(feature_layers: int) -> None:
    tower = _random("full", feature_layers=feature_layers)
    tower(_images()).square().sum().backward()
    without = {name for name, p in tower.named_parameters() if p.grad is None}
    assert without == {"backbone.embeddings.mask_token"}


@pytest.mark.parametrize("mode", ["lora", "frozen"])
@pytest.mark.parametrize("feature_layers", [1, 2])
def test_what_does_not_train_keeps_no_activations(mode: str, feature_layers: int) -> None:
    tower = _wake(_random(mode, feature_layers=feature_layers))
    tower.set_lora_trainable(False)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        features = tower(_images())
    assert (features.requires_grad, saved) == (False, [])


def test_thawed_adapters_get_a_gradient_and_the_tower_none() -> None:
    tower = _wake(_random())
    tower.set_lora_trainable(False)
    tower.set_lora_trainable(True)
    tower(_images()).square().mean(1).sum().backward()
    reached = {name for name, p in tower.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {name for name, _ in tower.lora_parameters()}


def test_freezing_does_not_change_the_features() -> None:
    tower = _wake(_random())
    thawed = tower(_images())
    tower.set_lora_trainable(False)
    assert tower(_images()).equal(thawed)


def test_the_frozen_tower_has_no_dropout_while_training() -> None:
    tower = _random("lora", hidden_dropout_prob=0.5).train()
    assert tower(_images()).equal(tower(_images()))


def test_the_fully_trained_tower_follows_the_training_mode() -> None:
    assert _random("full").train().backbone.training
    assert not _random("full").eval().backbone.training


def test_alpha_over_rank_scales_the_adapters() -> None:
    config = {"model_type": "dinov2", **TINY}
    half = VisionTower("tiny", "lora", "random", config=config, lora_rank=4, lora_alpha=2)
    full = VisionTower("tiny", "lora", "none", config=config, lora_rank=4, lora_alpha=4)
    full.load_state_dict(_wake(half).state_dict())
    for name, parameter in half.lora_parameters():
        if "lora_B" in name:
            parameter.data *= 2
    torch.testing.assert_close(half(_images()), full(_images()))


@pytest.mark.parametrize("mode", ["lora", "frozen", "full"])
def test_a_checkpoint_rebuilds_the_tower_without_the_hub(tmp_path: Path, mode: str) -> None:
    tower = _wake(_random(mode)).eval()
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    shape = json.loads(json.dumps(tower.config_dict()))
    rebuilt = VisionTower("nowhere", mode, "none", config=shape).eval()  # pyright: ignore[reportArgumentType]
    rebuilt.load_state_dict(load_file(tmp_path / "tower.safetensors"))
    assert rebuilt(_images()).equal(tower(_images()))


def test_registers_survive_a_checkpoint() -> None:
    tower = _random("lora", model_type="dinov2_with_registers", num_register_tokens=3)
    rebuilt = VisionTower("nowhere", "lora", "none", config=tower.config_dict())
    rebuilt.load_state_dict(tower.state_dict())
    assert rebuilt(_images()).equal(tower(_images()))


def test_what_a_checkpoint_does_not_fill_is_nan() -> None:
    tower = VisionTower("nowhere", "lora", "none", config={"model_type": "dinov2", **TINY})
    assert all(p.isnan().all() for p in tower.parameters())


def test_a_state_dict_in_the_names_of_transformers_4_loads() -> None:
    tower = _wake(_random())
    older = {
        name.replace(".attention.q_proj.", ".attention.attention.query.")
        .replace(".attention.k_proj.", ".attention.attention.key.")
        .replace(".attention.v_proj.", ".attention.attention.value.")
        .replace(".attention.o_proj.", ".attention.output.dense."): value
        for name, value in tower.state_dict().items()
    }
    rebuilt = VisionTower("nowhere", "lora", "none", config=tower.config_dict())
    rebuilt.load_state_dict(older)
    assert rebuilt(_images()).equal(tower(_images()))


def test_a_state_dict_has_the_names_of_transformers_5_inside_a_larger_model() -> None:
    state = torch.nn.ModuleDict({"vision": _random()}).state_dict()
    assert "vision.backbone.encoder.layer.1.attention.q_proj.base_layer.weight" in state
    assert not [name for name in state if ".attention.attention." in name]


def test_random_weights_follow_the_global_seed() -> None:
    assert _random()(_images()).equal(_random()(_images()))


def test_a_folder_gives_the_shape_of_random_weights(folder: Path) -> None:
    tower = VisionTower(str(folder), "frozen", "random", config_overrides={"num_hidden_layers": 1})
    assert (tower.width, len(tower.backbone.encoder.layer)) == (32, 1)


@pytest.mark.parametrize("model", ["./missing", "/missing/folder", "a/b/c", ""])
def test_a_missing_folder_is_named(model: str) -> None:
    with pytest.raises(VisionError, match="expected the DINOv2 weights of") as error:
        VisionTower(model)
    assert repr(model) in str(error.value)


def test_weights_that_cannot_be_had_offline_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(VisionError, match=r"'facebook/no-such-dinov2'.*local folder.*random weights"):
        VisionTower("facebook/no-such-dinov2")


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(VisionError, match="as safetensors"):
        VisionTower(str(folder))


def test_half_a_weight_file_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(VisionError, match="expected the DINOv2 weights of"):
        VisionTower(str(folder))


def test_a_tower_with_a_weight_missing_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VisionError, match=r"1 are missing \['layernorm.weight'\]"):
        VisionTower(str(folder))


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["layernorm.weight"] = torch.ones(16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VisionError, match="expected the DINOv2 weights of"):
        VisionTower(str(folder))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(VisionError, match="expected a model of type dinov2 or dinov2_with_registers, came 'vit'"):
        VisionTower(str(tmp_path))


def test_a_side_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(VisionError, match="divisible by the patch of 14, came 30 pixels"):
        _random()(_images(30))


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 28, 28), torch.zeros(2, 3, 28, 14, dtype=torch.uint8)])
def test_images_that_are_not_square_bytes_are_refused(images: Tensor) -> None:
    with pytest.raises(VisionError, match="expected uint8 images"):
        _random()(images)


def test_a_shape_beside_stock_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="expected no shape beside stock weights"):
        VisionTower("facebook/dinov2-base", config_overrides={"num_hidden_layers": 1})


@pytest.mark.parametrize(
    ("mode", "weights", "rank", "message"),
    [
        ("half", "random", 16, "expected mode lora, frozen or full, came 'half'"),
        ("lora", "new", 16, "expected weights stock, random or none, came 'new'"),
        ("lora", "random", 0, "expected a LoRA rank of at least 1, came 0"),
    ],
)
def test_a_wrong_choice_is_refused(mode: str, weights: str, rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionTower("t", mode, weights, config={"model_type": "dinov2", **TINY}, lora_rank=rank)  # pyright: ignore
