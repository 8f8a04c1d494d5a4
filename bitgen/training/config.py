"""A run is one frozen `TrainConfig`; a phase (`phases.py`) is a function that returns one. Every field is a flag."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from bitgen.arrival import has_secrets
from bitgen.tokens import VOCABULARY
from bitgen.training.decode import ConfigError, build
from bitgen.training.ranges import RANGES, is_within

__all__ = ["ConfigError", "TrainConfig"]


@dataclass(frozen=True)
class DataConfig:
    root: str = "data"
    """Folder or URL that holds shards/; a URL is whatever fsspec opens."""
    cache: str = "data/cache"
    """Folder on a disk of this machine for shards from a URL; any number of runs share it."""
    cache_gb: float = 50.0
    """Most that the cache may hold; what was read longest ago goes first."""
    verify_shards: bool = False
    """Compute every shard's sha256 before it is first read. From a URL that is always done as a shard comes; what is read
    of it before it is here is not compared."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Dataset folder below shards/, such as coarse/coco-train, to its weight: 1 draws by size, 0 leaves it out."""
    size_power: float = 1.0
    """0 to 1: draws of a dataset go by weight x size ** size_power. Below 1 the small ones are seen more often, at 0 all
    alike; 1 / T of sampling with temperature T (Source: arXiv 1907.05019, section 4.2)."""
    validation: tuple[str, ...] = ()
    """Dataset folders below shards/ to validate on."""
    samples_per_epoch: int = 0
    """Draws that make one epoch; 0: the size of the mixture."""
    image_px: int = 224
    """Side of the square that the vision tower sees; a multiple of its patch."""
    crop_scale_min: float = 1.0
    """Least area of the random crop as a share of the image; 1 keeps the whole image."""
    texts_per_image: int = 2
    """Texts of one image in one step."""
    max_tokens: int = 256
    """Longest text, its two end-of-text tokens included."""
    features: Literal["none", "int8", "fp16"] = "none"
    """Store the vision tower's patch features beside the shards (beside the cache, where those are at a URL), once, and read
    them in place of images as long as the tower stays as it is: int8 with a scale a token, or fp16, twice as large. Images
    are then seen whole, whatever crop_scale_min."""
    workers: int = 0
    """Decoding processes, or threads where the shards are at a URL or the system is not Linux; 0: one a core."""
    allow_other_holdout: bool = False
    """Train on shards that were built under different hold-out lists."""


@dataclass(frozen=True)
class VisionConfig:
    model: str = "facebook/dinov2-base"
    """A DINOv2 on the hub (small, base, large, with registers), or a local folder."""
    weights: Literal["stock", "random"] = "stock"
    """Pretrained weights, or random ones of the size that the random_* fields give."""
    mode: Literal["lora", "frozen", "full"] = "lora"
    """What of the tower trains: adapters on its queries and values, nothing, or everything."""
    lora_rank: int = 16
    lora_alpha: float = 16.0
    """The adapters' output is scaled by lora_alpha / lora_rank."""
    lora_layers: int = 0
    """Layers that have adapters, counted from the last; 0: all. The backward pass ends at the lowest."""
    feature_layers: int = 1
    """Last layers of the tower whose patch tokens, each normalised, stand beside each other before the compressor."""
    random_width: int = 192
    random_layers: int = 4
    random_heads: int = 3
    random_patch_px: int = 14


@dataclass(frozen=True)
class ModelConfig:
    vision: VisionConfig = field(default_factory=VisionConfig)
    vocabulary: int = VOCABULARY
    """Tokens that have a row in the embedding and a class in the caption decoder's head: all of GPT-2's, or fewer, which
    --trim-vocabulary counts."""
    width: int = 128
    """Of text states and compressed patch tokens, d."""
    compressor_width: int = 384
    """Hidden width between the vision tower's tokens and d."""
    heads: int = 4
    ffn: int = 256
    """Hidden width of the feed-forward layers."""
    text_layers: int = 3
    fusion_layers: int = 2
    """Last layers of the text encoder that fuse with as many image-side layers."""
    fusion: Literal["gated", "concat"] = "gated"
    """How they see each other: by cross-attention behind a gate that starts at 0, or (the ablation) by self-attention over
    the states of both."""
    text_pooling: Literal["mean", "end"] = "mean"
    """What stands for a text: the mean of its states, or the state of the end-of-text that closes it."""
    decoder_layers: int = 2
    grounding_layers: int = 2
    memory_slots: int = 32
    memory_noise: float = 0.1
    """Variance of what is written to the memory, above 0.01; learned."""
    memory_inverse: Literal["reference", "newton"] = "reference"
    """How the memory's addresses are inverted: kept orthonormal, or Newton's iteration as Larimar's."""
    memory_newton_steps: int = 15
    temperature: float = 0.07
    """Of both contrasts at the start; learned within 0.01 to 0.5."""
    ternary: bool = True
    """1.58-bit text, fusion and decoder layers; off gives their full-precision twins."""


@dataclass(frozen=True)
class OptimConfig:
    batch: int = 128
    """Images of one micro-step, over all ranks."""
    accumulation: int = 2
    """Micro-steps of one optimizer step."""
    epochs: int = 25
    lr: float = 2e-4
    ternary_lr_scale: float = 1.0
    """Multiplies lr for the latent weights of ternary layers. 1, since at lr 1e-3 factors of 2 and 4 help their full-precision
    twins more (tests/benchmarks/ternary_lr.py)."""
    lora_lr_scale: float = 1.0
    """Multiplies lr for the LoRA adapters."""
    gate_lr_scale: float = 1.0
    """Multiplies lr for the fusion gates, which start at 0 and move by at most the rate a step."""
    weight_decay: float = 0.02
    """Not on norms, embeddings, gates, temperatures and vectors."""
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_steps: int = 1000
    """Steps over which lr rises from 0; at most a tenth of the run."""
    lr_final: float = 0.1
    """Share of lr that the cosine ends at."""
    clip: float = 1.0
    """Largest gradient norm."""
    lora_warmup_epochs: float = 5.0
    """Epochs of frozen adapters at the start."""
    skip_nonfinite: int = 0
    """Steps in a row that are left out and counted where a loss or the gradient is not finite; one more stops the run.
    0: the first does. Above 0 every step waits for the device."""


@dataclass(frozen=True)
class LossConfig:
    itc: float = 1.0
    """Weight of image-text contrast."""
    itm: float = 0.5
    """Weight of image-text matching with hard negatives."""
    text: float = 0.5
    """Weight of next-token prediction by the caption decoder."""
    grounding: float = 0.0
    """Weight of 5 L1 + 2 (1 - GIoU) + focal + Dice."""
    region: float = 0.0
    """Weight of region-phrase contrast."""
    words: float = 0.0
    """Weight of the words of phrases, each told from its region and its neighbours. For towers that start from random weights,
    which the other losses teach colours first and shapes last."""
    memory_kl: float = 0.1
    """Weight of the memory's divergence from its prior, per slot and width."""
    itm_negatives: Literal["batch", "queue"] = "batch"
    """Where matching draws its hard negatives: the batch of all ranks, or that and the token states of the last `queue`
    pairs, which take queue x (patches + longest text's bucket) x width x 2 bytes (512 MiB at the defaults) on every device
    and in every checkpoint."""
    queue: int = 4096
    """Past features that serve as negatives; 0: none."""
    label_smoothing: float = 0.1
    episode: int = 16
    """Images that share one memory, at most."""
    episode_rows: int = 32
    """Neighbours in the batch that they are taken from: where half of the images have two texts, about 10 of 32 take part."""
    episode_share: float = 0.6
    """Of the images with two texts, those that are written and recalled; the rest decode with an empty memory. 0: all do, so
    that the memory learns nothing."""


@dataclass(frozen=True)
class RunConfig:
    name: str = "coarse"
    runs: str = "runs"
    """Folder of all runs."""
    init: str = ""
    """Run or checkpoint folder whose weights this run starts from."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on an accelerator that has it, fp32 on a CPU."""
    compile: bool = False
    """Compile the vision tower's layers: a minute at the start and one at the thaw, faster steps afterwards."""
    graphs: bool = True
    """On an accelerator, one process of the coarse phase captures a micro-step's kernels once for each shape and replays them
    (CUDA graphs), since starting them one by one takes longer than they do. They keep a micro-step's activations. Not with
    recompute."""
    recompute: bool = False
    """Keep only the inputs of layers for the backward pass, which computes the rest again (activation checkpointing): less
    memory, slower steps, the same losses."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep: int = 3
    """Last checkpoints kept, beside the best."""
    validate_every: float = 1.0
    """Epochs between validations; 0: none."""
    patience: int = 5
    """Validations without a better figure before the run stops; 0: never."""
    show_every: int = 0
    """Steps between pages of pictures in the run's folder, of what the model makes of some samples of the sets validated on, or
    trained on where there are none: similarities, vectors, captions, retrieved texts and images, boxes; 0: none."""
    wandb: bool = False
    """Also log to Weights & Biases (project bitgen; the key comes from the environment, and whether anything leaves this machine
    from its WANDB_MODE)."""


@dataclass(frozen=True)
class TrainConfig:
    phase: Literal["coarse", "fine", "joint"] = "coarse"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name, interval in RANGES.items():
            found = attrgetter(name)(self)
            _hold(is_within(found, interval), name, f"within {interval}", found)
        model, vision, data = self.model, self.model.vision, self.data
        _hold(model.width % (4 * model.heads) == 0, "model.width", "a multiple of 4 x model.heads", model.width)
        for name, most in (("fusion_layers", "text_layers"), ("memory_slots", "width")):
            value = getattr(model, name)
            _hold(value <= getattr(model, most), f"model.{name}", f"model.{most} at most", value)
        if vision.weights == "random":
            width, patch = vision.random_width, vision.random_patch_px
            _hold(width % vision.random_heads == 0, "model.vision.random_width", "a multiple of random_heads", width)
            _hold(data.image_px % patch == 0, "data.image_px", f"a multiple of the patch, {patch}", data.image_px)
        loss = self.loss
        names = ("itc", "itm", "text", "grounding", "region", "words")
        _hold(
            any(getattr(loss, name) for name in names), "loss", f"above 0 for one of {', '.join(names)}", "only zeros"
        )
        past = loss.queue > 0 or loss.itm_negatives == "batch"
        _hold(past, "loss.queue", "above 0 with loss.itm_negatives queue", loss.queue)
        _hold(loss.episode <= loss.episode_rows, "loss.episode_rows", "loss.episode or more", loss.episode_rows)
        weights = data.mixture.values()
        draws = all(0 <= weight < math.inf for weight in weights) and (not data.mixture or any(weights))
        _hold(draws, "data.mixture", "finite weights of 0 or more, one above 0", data.mixture)
        for name in (*data.mixture, *data.validation):
            _hold(_is_folder_name(name), "data.mixture", "plain folder names", name)
        # It is kept in files of the run and in checkpoints: what a store wants to know is for the environment.
        _hold(not has_secrets(data.root), "data.root", "a URL without user, password and query", "one (not shown)")
        _hold(_is_folder_name(self.run.name), "run.name", "a plain folder name", self.run.name)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "TrainConfig":
        """The inverse of `to_json`. Raises `ConfigError` for unknown fields and for what is not a configuration."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"expected a configuration as JSON, found {text[:60]!r}: {error}") from error
        loss = fields.get("loss") if isinstance(fields, dict) else None
        if isinstance(loss, dict) and "episode" in loss:
            loss.setdefault("episode_rows", loss["episode"])  # of before there were two numbers
        return build(TrainConfig, fields, "config")


def _hold(condition: bool, name: str, expected: str, found: Any) -> None:
    if not condition:
        raise ConfigError(f"expected {name} to be {expected}, found {found!r}")


def _is_folder_name(name: str) -> bool:
    return bool(name) and not name.startswith((".", "/")) and ".." not in name
