"""Pillow's images of any mode become RGB; Pillow and NumPy alone."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """In mode RGB: grey thrice, transparent pixels laid on white. Raises whatever Pillow raises on damaged bytes."""
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
