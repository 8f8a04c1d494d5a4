"""A run's configuration: its ranges, and its JSON."""

import json
from dataclasses import is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from bitgen.training.config import ConfigError, LossConfig, TrainConfig
from bitgen.training.phases import Phase, Preset, configure
from bitgen.training.ranges import RANGES
from tests import fakes


@pytest.mark.parametrize("phase", ["coarse", "fine", "joint"])
@pytest.mark.parametrize("preset", ["base", "demo"])
def test_a_configuration_survives_json(phase: Phase, preset: Preset) -> None:
    config = configure(phase, preset)
    assert TrainConfig.from_json(config.to_json()) == config


def test_every_field_survives_json() -> None:
    config = fakes.config("fine", data={"validation": ("eval/a", "eval/b")}, run={"init": "runs/x", "wandb": True})
    assert TrainConfig.from_json(config.to_json()) == config


def test_a_whole_number_will_do_for_a_fraction() -> None:
    assert TrainConfig.from_json('{"optim": {"lr": 1}}').optim.lr == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "as JSON"),
        ("[]", "expected config to be an object"),
        ('{"model": 3}', "expected config.model to be an object"),
        ('{"modle": {}}', "found 'modle'"),
        ('{"optim": {"learning_rate": 0.1}}', "OptimConfig in config.optim, found 'learning_rate'"),
        ('{"optim": {"epochs": "many"}}', "config.optim.epochs of type int, found 'many'"),
        ('{"optim": {"epochs": 2.5}}', "config.optim.epochs of type int, found 2.5"),
        ('{"optim": {"epochs": true}}', "config.optim.epochs of type int, found True"),
        ('{"optim": {"lr": "1e-4"}}', "config.optim.lr of type float, found '1e-4'"),
        ('{"run": {"wandb": 1}}', "config.run.wandb of type bool, found 1"),
        ('{"phase": "middle"}', "config.phase to be one of"),
        ('{"model": {"vision": {"mode": "half"}}}', "config.model.vision.mode to be one of"),
        ('{"data": {"mixture": ["coarse/coco"]}}', "config.data.mixture of type dict"),
        ('{"data": {"mixture": {"coarse/coco": "1"}}}', "config.data.mixture.coarse/coco of type float, found '1'"),
        ('{"data": {"mixture": {"coarse/coco": true}}}', "config.data.mixture.coarse/coco of type float, found True"),
        ('{"data": {"validation": "eval/coco"}}', "config.data.validation of type list, found 'eval/coco'"),
        ('{"data": {"validation": 3}}', "config.data.validation of type list, found 3"),
        ('{"data": {"validation": [3]}}', "config.data.validation.0 of type str, found 3"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^expected .*found") as error:
        TrainConfig.from_json(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"width": 100, "heads": 8}),
        ("model", {"width": 0}),
        ("model", {"heads": 0}),
        ("model", {"heads": -4}),
        ("model", {"ffn": 0}),
        ("model", {"compressor_width": 0}),
        ("model", {"fusion_layers": 0}),
        ("model", {"fusion_layers": 4, "text_layers": 3}),
        ("model", {"decoder_layers": 0}),
        ("model", {"grounding_layers": 0}),
        ("model", {"memory_slots": 0}),
        ("model", {"memory_slots": 200}),
        ("model", {"temperature": 0.6}),
        ("model", {"temperature": 0.001}),
        ("data", {"crop_scale_min": 0.0}),
        ("data", {"crop_scale_min": 1.5}),
        ("data", {"texts_per_image": 0}),
        ("data", {"max_tokens": 2}),
        ("data", {"max_tokens": 257}),
        ("data", {"image_px": 0}),
        ("data", {"samples_per_epoch": -1}),
        ("data", {"size_power": -0.1}),
        ("data", {"size_power": 1.1}),
        ("data", {"size_power": float("nan")}),
        ("data", {"workers": -1}),
        ("data", {"mixture": {"coarse/coco": -1.0}}),
        ("data", {"mixture": {"coarse/coco": float("nan")}}),
        ("data", {"mixture": {"coarse/coco": float("inf")}}),
        ("data", {"mixture": {"../secrets": 1.0}}),
        ("data", {"mixture": {"/etc": 1.0}}),
        ("optim", {"batch": 1}),
        ("optim", {"accumulation": 0}),
        ("optim", {"epochs": 0}),
        ("optim", {"lr": 0.0}),
        ("optim", {"lr": float("nan")}),
        ("optim", {"lr": float("inf")}),
        ("optim", {"ternary_lr_scale": -1.0}),
        ("optim", {"lora_lr_scale": -1.0}),
        ("optim", {"weight_decay": -0.1}),
        ("optim", {"beta1": 1.0}),
        ("optim", {"beta2": -0.1}),
        ("optim", {"warmup_steps": -1}),
        ("optim", {"lr_final": 1.5}),
        ("optim", {"clip": 0.0}),
        ("optim", {"lora_warmup_epochs": -1.0}),
        ("optim", {"skip_nonfinite": -1}),
        ("loss", {"itc": -1.0}),
        ("loss", {"region": float("nan")}),
        ("loss", {"memory_kl": -0.1}),
        ("loss", {"queue": -1}),
        ("loss", {"queue": 0, "itm_negatives": "queue"}),
        ("loss", {"label_smoothing": 1.0}),
        ("loss", {"episode": 0}),
        ("loss", {"episode_share": 1.1}),
        ("loss", {"episode_share": -0.1}),
        ("run", {"name": ""}),
        ("run", {"name": "../x"}),
        ("run", {"name": "/x"}),
        ("run", {"name": ".x"}),
        ("run", {"seed": -1}),
        ("run", {"log_every": 0}),
        ("run", {"checkpoint_every": 0}),
        ("run", {"keep": 0}),
        ("run", {"validate_every": -1.0}),
        ("run", {"patience": -1}),
    ],
)
def test_a_value_out_of_its_range_is_refused(section: str, values: dict[str, Any]) -> None:
    config = TrainConfig()
    with pytest.raises(ConfigError, match=rf"^expected {section}\.{next(iter(values))}.* to be .*, found "):
        replace(config, **{section: replace(getattr(config, section), **values)})


@pytest.mark.parametrize("values", [{"lora_rank": 0}, {"random_width": 0}, {"random_layers": 0}, {"random_width": 190}])
def test_an_impossible_tower_is_refused(values: dict[str, Any]) -> None:
    config = TrainConfig()
    vision = replace(config.model.vision, weights="random", **values)
    with pytest.raises(ConfigError, match=rf"^expected model\.vision\.{next(iter(values))} to be .*, found "):
        replace(config, model=replace(config.model, vision=vision))


def _numbers(kind: Any, prefix: str = "") -> set[str]:
    """Names of all fields of whole or broken numbers, as flags spell them."""
    found = set()
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            found |= _numbers(hint, f"{prefix}{name}.")
        elif hint in (int, float):
            found.add(prefix + name)
    return found


def test_every_number_has_a_range() -> None:
    assert _numbers(TrainConfig) == set(RANGES)


def test_a_mixture_that_draws_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected data.mixture to be .* found \{'coarse/coco': 0.0\}"):
        fakes.config(data={"mixture": {"coarse/coco": 0.0}})


def test_an_image_side_that_random_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected data.image_px to be a multiple of .* found 60"):
        fakes.config(data={"image_px": 60})


@pytest.mark.parametrize("phase", ["coarse", "fine", "joint"])
@pytest.mark.parametrize("preset", ["base", "demo"])
def test_a_phase_is_named_by_its_configuration(phase: Phase, preset: Preset) -> None:
    assert configure(phase, preset).phase == phase


def test_the_phases_weigh_their_losses_as_documented() -> None:
    coarse, fine = configure("coarse", "base").loss, configure("fine", "base").loss
    assert (coarse.itc, coarse.itm, coarse.text, coarse.memory_kl, coarse.grounding) == (1.0, 0.5, 0.5, 0.1, 0.0)
    assert (fine.grounding, fine.region, fine.itc, fine.text, fine.memory_kl, fine.itm) == (0.5, 1, 0.25, 0.25, 0.1, 0)


@pytest.mark.parametrize("preset", ["small", "large"])
def test_a_preset_for_one_gpu_takes_the_same_images_a_step(preset: Preset) -> None:
    base, other = (configure("coarse", each) for each in ("base", preset))
    assert other.optim.batch * other.optim.accumulation == base.optim.batch * base.optim.accumulation
    assert replace(other, optim=base.optim) == base


def test_eight_gpus_take_four_times_the_images_at_twice_the_rate() -> None:
    base, eight = (configure("coarse", each).optim for each in ("base", "eight"))
    assert (eight.batch * eight.accumulation, eight.lr) == (4 * base.batch * base.accumulation, 2 * base.lr)


def test_the_joint_phase_has_the_data_and_the_losses_of_both() -> None:
    coarse, fine, joint = (configure(phase, "base") for phase in ("coarse", "fine", "joint"))
    assert joint.data.mixture.keys() == coarse.data.mixture.keys() | fine.data.mixture.keys()
    weighed = {name for name, weight in vars(joint.loss).items() if isinstance(weight, float) and weight}
    assert weighed >= {"itc", "itm", "text", "memory_kl", "grounding", "region"}


def test_the_fine_phase_keeps_captioned_images() -> None:
    mixture = configure("fine", "base").data.mixture
    assert {name: weight for name, weight in mixture.items() if name.startswith("coarse/")} == {
        "coarse/coco-train": 0.25
    }


def test_no_evaluation_data_stands_in_a_mixture() -> None:
    mixtures = {**configure("coarse", "base").data.mixture, **configure("fine", "base").data.mixture}
    assert {name.partition("/")[0] for name in mixtures} == {"coarse", "fine"}


def test_a_run_without_a_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss to be above 0 for one of itc, itm, text, grounding, region, words"):
        TrainConfig(loss=LossConfig(itc=0.0, itm=0.0, text=0.0))


def test_a_configuration_of_before_takes_its_episodes_from_as_many_rows() -> None:
    fields = json.loads(TrainConfig().to_json())
    del fields["loss"]["episode_rows"]
    fields["loss"]["episode"] = 40
    assert TrainConfig.from_json(json.dumps(fields)).loss.episode_rows == 40
