"""What each number of a configuration may be, as an interval by the name of its flag."""

from collections.abc import Mapping

RANGES: Mapping[str, str] = {
    "data.size_power": "[0, 1]",
    "data.cache_gb": "(0, inf)",
    "data.samples_per_epoch": "[0, inf)",
    "data.image_px": "[1, inf)",
    "data.crop_scale_min": "(0, 1]",
    "data.texts_per_image": "[1, inf)",
    "data.max_tokens": "[3, 256]",
    "data.workers": "[0, inf)",
    "model.vision.lora_rank": "[1, inf)",
    "model.vision.lora_alpha": "(0, inf)",
    "model.vision.lora_layers": "[0, inf)",
    "model.vision.feature_layers": "[1, inf)",
    "model.vision.random_width": "[1, inf)",
    "model.vision.random_layers": "[1, inf)",
    "model.vision.random_heads": "[1, inf)",
    "model.vision.random_patch_px": "[1, inf)",
    "model.vocabulary": "[1, 50257]",
    "model.width": "[4, inf)",
    "model.compressor_width": "[1, inf)",
    "model.heads": "[1, inf)",
    "model.ffn": "[1, inf)",
    "model.text_layers": "[1, inf)",
    "model.fusion_layers": "[1, inf)",
    "model.decoder_layers": "[1, inf)",
    "model.grounding_layers": "[1, inf)",
    "model.memory_slots": "[1, inf)",
    "model.memory_noise": "(0.01, inf)",
    "model.memory_newton_steps": "[1, inf)",
    "model.temperature": "[0.01, 0.5]",
    "optim.batch": "[2, inf)",  # a contrast needs a negative
    "optim.accumulation": "[1, inf)",
    "optim.epochs": "[1, inf)",
    "optim.lr": "(0, inf)",
    "optim.ternary_lr_scale": "[0, inf)",
    "optim.lora_lr_scale": "[0, inf)",
    "optim.gate_lr_scale": "[0, inf)",
    "optim.weight_decay": "[0, inf)",
    "optim.beta1": "[0, 1)",
    "optim.beta2": "[0, 1)",
    "optim.warmup_steps": "[0, inf)",
    "optim.lr_final": "[0, 1]",
    "optim.clip": "(0, inf)",
    "optim.lora_warmup_epochs": "[0, inf)",
    "optim.skip_nonfinite": "[0, inf)",
    "loss.itc": "[0, inf)",
    "loss.itm": "[0, inf)",
    "loss.text": "[0, inf)",
    "loss.grounding": "[0, inf)",
    "loss.region": "[0, inf)",
    "loss.words": "[0, inf)",
    "loss.memory_kl": "[0, inf)",
    "loss.queue": "[0, inf)",
    "loss.label_smoothing": "[0, 1)",
    "loss.episode": "[1, inf)",
    "loss.episode_rows": "[1, inf)",
    "loss.episode_share": "[0, 1]",
    "run.seed": "[0, 2147483648)",
    "run.log_every": "[1, inf)",
    "run.checkpoint_every": "[1, inf)",
    "run.keep": "[1, inf)",
    "run.validate_every": "[0, inf)",
    "run.patience": "[0, inf)",
    "run.show_every": "[0, inf)",
}
"""What each number may be."""


def is_within(value: float, interval: str) -> bool:
    """Whether `value` lies in an interval such as `(0, 1]`; `inf` is no bound."""
    low, high = (float(bound) for bound in interval[1:-1].split(", "))
    above = value > low or (interval[0] == "[" and value == low)
    return above and (value < high or (interval[-1] == "]" and value == high))
