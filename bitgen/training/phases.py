"""The phases of the curriculum, each a function that returns a whole configuration: read one as code.

Coarse aligns images and texts; fine grounds phrases and starts from a coarse run (Source: FIBER, arXiv 2206.07643). Joint is
what that curriculum is compared with: the data and the losses of both in one phase. The `demo` preset is the same run at a size
that two CPU cores train in minutes; `small`, `large` and `eight` fit its batch to GPUs, by `summary.estimate_memory`, which is an
estimate.
"""

from dataclasses import replace
from typing import Literal

from bitgen.training.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    VisionConfig,
)

Phase = Literal["coarse", "fine", "joint"]
Preset = Literal["base", "demo", "small", "large", "eight"]


def coarse() -> TrainConfig:
    """Image-level alignment: contrast, matching, captions and recall on captioned images."""
    return TrainConfig(
        phase="coarse",
        data=DataConfig(
            mixture={
                "coarse/coco-train": 1.0,
                "coarse/vg-train": 1.0,
                "coarse/sbu-train": 1.0,
                "coarse/cc3m-train": 1.0,
                "coarse/flickr30k-train": 1.0,
            },
            validation=("eval/coco-val",),
            crop_scale_min=0.5,
            texts_per_image=2,
        ),
        run=RunConfig(name="coarse"),
    )


def fine() -> TrainConfig:
    """Phrase grounding, with a share of captioned images and small contrast and caption losses to keep what was learned."""
    return TrainConfig(
        phase="fine",
        data=DataConfig(
            mixture={
                "fine/refcoco-train": 1.0,
                "fine/refcoco+-train": 1.0,
                "fine/refcocog-train": 1.0,
                "fine/mixed-train": 1.0,
                "fine/flickr30k-grounded-train": 1.0,
                "coarse/coco-train": 0.25,
            },
            validation=("eval/refcoco-val",),
            texts_per_image=4,
        ),
        loss=LossConfig(itc=0.25, itm=0.0, text=0.25, grounding=0.5, region=1.0, memory_kl=0.1),
        run=RunConfig(name="fine"),
    )


def joint() -> TrainConfig:
    """Coarse and fine at once, from one mixture. Adapters thaw as in the coarse phase, images are whole as in the fine one."""
    captions, phrases = coarse(), fine()
    # The crawled sets have far more images than all with boxes: these are drawn four times as often as their sizes say.
    grounded = {name: 4.0 for name in phrases.data.mixture if name not in captions.data.mixture}
    return replace(
        captions,
        phase="joint",
        data=replace(
            captions.data,
            mixture=captions.data.mixture | grounded,
            validation=(*captions.data.validation, *phrases.data.validation),
            crop_scale_min=1.0,
            texts_per_image=4,
        ),
        loss=replace(captions.loss, grounding=phrases.loss.grounding, region=phrases.loss.region),
        run=RunConfig(name="joint"),
    )


def demo(config: TrainConfig) -> TrainConfig:
    """A phase at demo size: a small tower of random weights, small images, the embedded sample, no validation to stop on."""
    is_coarse = config.phase == "coarse"
    captions, sentences = {"coarse/sample-train": 1.0}, {"fine/sample-grounded-train": 1.0}
    return replace(
        config,
        data=replace(
            config.data,
            mixture=captions if is_coarse else sentences | captions,
            validation=(),
            image_px=112,
            crop_scale_min=1.0,
        ),
        model=ModelConfig(vision=VisionConfig(weights="random", lora_rank=8, lora_alpha=8.0)),
        optim=OptimConfig(
            batch=29 if is_coarse else 24,
            accumulation=1,
            epochs=60 if config.phase == "fine" else 120,
            lr=1.5e-3 if is_coarse else 1e-3,
            gate_lr_scale=10.0,
            lora_warmup_epochs=40.0,
            warmup_steps=10,
        ),
        # No queue: in so short a run its features are older than what they are compared with (contrast after 75 steps at
        # lr 1e-3: 0.05 without, 1.2 with 32 entries, 2.8 with 256).
        loss=replace(config.loss, queue=0),
        run=replace(config.run, validate_every=0.0, patience=0, checkpoint_every=100),
    )


def small(config: TrainConfig) -> TrainConfig:
    """A phase for one GPU of 8 GB: as many images a step as ever, a quarter of them at a time."""
    return replace(config, optim=replace(config.optim, batch=32, accumulation=8))


def large(config: TrainConfig) -> TrainConfig:
    """A phase for one GPU of 40 GB or more: as many images a step as ever, all at a time."""
    return replace(config, optim=replace(config.optim, batch=256, accumulation=1))


def eight(config: TrainConfig) -> TrainConfig:
    """A phase for eight GPUs of 24 GB: four times the images a step, at a rate that is higher by the root of that.

    Source of the rule: arXiv 2205.10287, for Adam.
    """
    return replace(config, optim=replace(config.optim, batch=1024, accumulation=1, lr=2 * config.optim.lr))


PHASES = {"coarse": coarse, "fine": fine, "joint": joint}


def configure(phase: Phase, preset: Preset) -> TrainConfig:
    """The configuration of a phase at a preset's size."""
    config = PHASES[phase]()
    sizes = {"demo": demo, "small": small, "large": large, "eight": eight}
    return config if preset == "base" else sizes[preset](config)
