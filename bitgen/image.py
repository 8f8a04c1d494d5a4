"""Encoded bytes become pixels, and boxes move with them: decode, crop and resize, and the way back."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bitgen.colours import MAX_PIXELS
from bitgen.pixels import DecodeError, rgb

__all__ = ["MAX_PIXELS", "Crop", "DecodeError", "Transform", "decode", "move_boxes", "to_image"]

KEPT_AREA = 0.5
"""A box that keeps less of its area inside a crop is dropped."""

Crop = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels of the stored image."""


def decode(image: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """[3, H, W] uint8, RGB: `bitgen.pixels.rgb` as a tensor, and raises what that raises.

    The tensor is a view of rows of pixels, which is what the resize reads fastest.
    """
    return torch.from_numpy(rgb(image, max_pixels)).permute(2, 0, 1)


@dataclass(frozen=True)
class Transform:
    """From a stored image to the square that the model sees."""

    side_px: int
    crop_scale_min: float = 1.0
    """1.0: the whole image, its aspect not kept. Below: a random crop of at least this share of the area, its aspect
    3:4 to 4:3."""

    def __post_init__(self) -> None:
        if self.side_px < 1:
            raise ValueError(f"expected a side_px of at least 1, found {self.side_px}")
        if not 0 < self.crop_scale_min <= 1:
            raise ValueError(f"expected 0 < crop_scale_min <= 1, found {self.crop_scale_min}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the memory of one image in a batch, uint8: rows of pixels."""
        return self.side_px, self.side_px, 3

    def fill(
        self, stored: bytes, size: tuple[int, int], out: Tensor, seed: int, position: int, max_pixels: int
    ) -> tuple[tuple[int, int], Crop]:
        """Decodes an image to `out`, uint8 of `shape`; returns its own size, whatever its record says, and what is seen of
        it. Raises `DecodeError`."""
        pixels = decode(stored, max_pixels)
        height, width = pixels.shape[1:]
        crop = self.crop(width, height, seed, position)
        self.resize(pixels, crop, out.permute(2, 0, 1))
        return (width, height), crop

    def fields(self, memory: Tensor) -> dict[str, Tensor]:
        """What `bitgen.batch.Batch` has of B images in `memory` [B, *shape]."""
        return {"images": memory.permute(0, 3, 1, 2)}

    def crop(self, width: int, height: int, seed: int, position: int) -> Crop:
        """What is seen of an image of that size: a pure function of its arguments. Source: arXiv 1409.4842, section 6.

        Ten tries to fit an area and an aspect, each uniform in its range (the aspect on a log scale); then, for images
        much longer than wide, their largest middle part of an allowed aspect.
        """
        if self.crop_scale_min == 1.0:
            return 0, 0, width, height
        # Raw bits, not Generator.uniform, whose values NumPy may change between versions (NEP 19).
        raw = np.random.PCG64(np.random.SeedSequence((seed, position))).random_raw(40).reshape(10, 4)
        for area, aspect, left, top in ((raw >> np.uint64(11)) * 2.0**-53).tolist():
            pixels = width * height * (self.crop_scale_min + (1 - self.crop_scale_min) * area)
            ratio = math.exp((2 * aspect - 1) * math.log(4 / 3))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
                return x, y, x + w, y + h
        w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
        x, y = (width - w) // 2, (height - h) // 2
        return x, y, x + w, y + h

    def resize(self, pixels: Tensor, crop: Crop, out: Tensor | None = None) -> Tensor:
        """[3, side, side] uint8 from [3, H, W] uint8: bicubic with antialiasing, within 0.005 of Pillow's on average.

        Written to `out`, where that is given; it is fastest, by 47 of 247 us, where its memory is rows of pixels. On x86
        this runs on the calling thread alone (AVX2 kernel: CPU time equals wall time), so decoding threads need no
        `torch.set_num_threads`, which would leak into every thread that the process starts later.
        """
        x0, y0, x1, y1 = crop
        seen, side = pixels[None, :, y0:y1, x0:x1], (self.side_px, self.side_px)
        if out is not None:
            # What `interpolate` calls, without the tensor of its own that it turns the pixels' rows into planes for.
            return torch.ops.aten._upsample_bicubic2d_aa.out(seen, side, False, None, None, out=out[None])[0]
        # What torchvision's resize calls. A loader has no other use for torchvision, which takes 90 MB of a process.
        return F.interpolate(seen, side, mode="bicubic", align_corners=False, antialias=True)[0]


def move_boxes(boxes: NDArray[np.float64], crops: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes as the model sees them, and which of them it sees at least half of.

    Args:
        boxes: [N, 4], corners in fractions of the stored image.
        crops: [N, 4] or [4], likewise.

    Returns [N, 4], corners in fractions of the crop, cut at its edges, and [N] bool.
    """
    origin = np.concatenate([crops[..., :2]] * 2, axis=-1)
    size = np.concatenate([crops[..., 2:] - crops[..., :2]] * 2, axis=-1)
    moved = (boxes - origin) / size
    seen = moved.clip(0.0, 1.0)
    return seen, _areas(seen) >= KEPT_AREA * _areas(moved)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def to_image(places: Tensor, crops: Tensor) -> Tensor:
    """What the model predicts, as fractions of the stored image: what `move_boxes` did, undone.

    Args:
        places: [N, 4] corners or [N, 2] points, x before y, in fractions of the crop.
        crops: [N, 4] or [4], corners in fractions of the stored image, as in `Batch.crops`.
    """
    points = places.shape[-1] // 2
    origin = torch.cat([crops[..., :2]] * points, dim=-1)
    size = torch.cat([crops[..., 2:] - crops[..., :2]] * points, dim=-1)
    return origin + places * size
