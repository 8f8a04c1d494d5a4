"""What the vision tower made of an image, stored once and read in place of its pixels.

    features [N, D] -> int8 with a scale a token, or float16 -> a `.npy` member -> rows of a batch -> [B, N, D] float32

Of 256 tokens 768 wide int8 takes 197 KB an image, float16 twice that. `numpy.load` reads a member without unpickling: int8 ones are
[N] records of `scale` (float16) and `values` (D int8), whose product the features are; float16 ones are [N, D]. An image
that does not decode has no tokens, [0], so that it is replaced in the stream as it would be if it were decoded.

An int8 value is off by half a step at most, 1/254 of the largest value of its token; the scale is rounded to float16 first.

Axes: B images, N patches, D width of the tower's tokens.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitgen.image import Crop
from bitgen.pixels import DecodeError

Kind = Literal["int8", "fp16"]
_SCALE_BYTES = 2


@dataclass(frozen=True)
class FeatureForm:
    """How the features of an image are stored."""

    patches: int
    """N."""
    width: int
    """D."""
    kind: Kind

    @property
    def shape(self) -> tuple[int, int]:
        """Of the memory of one image in a batch, uint8: [N, bytes of a token]."""
        return self.patches, _SCALE_BYTES + self.width if self.kind == "int8" else 2 * self.width

    @cached_property
    def size_bytes(self) -> int:
        """Of a member."""
        return len(self._header) + self.patches * self.shape[1]

    @cached_property
    def absent(self) -> bytes:
        """The member of an image that does not decode."""
        return _header(self.kind, 0, self.width)

    @cached_property
    def _header(self) -> bytes:
        return _header(self.kind, self.patches, self.width)

    def members(self, features: Tensor) -> list[bytes]:
        """The members of B images' `features` [B, N, D], of any float type, on any device."""
        if features.shape[1:] != (self.patches, self.width):
            raise ValueError(f"expected features {[self.patches, self.width]}, came {list(features.shape[1:])}")
        packed = pack(features.float(), self.kind).cpu().numpy()
        return [self._header + rows.tobytes() for rows in packed]

    def fill(
        self, stored: bytes, size: tuple[int, int], out: Tensor, seed: int, position: int, max_pixels: int
    ) -> tuple[tuple[int, int], Crop]:
        """Copies a member to `out`, uint8 of `shape`; returns the image's `size`, and the whole of it as what is seen.

        Raises `DecodeError` for an image that did not decode, and for what is not a member of this form.
        """
        head = len(self._header)
        if len(stored) != self.size_bytes or not stored.startswith(self._header):
            found = "an image that did not decode" if stored == self.absent else f"{stored[:head]!r}"
            raise DecodeError(f"expected {self.kind} features of {self.patches} x {self.width}, found {found}")
        out.numpy().reshape(-1)[:] = np.frombuffer(stored, np.uint8, offset=head)
        return size, (0, 0, *size)

    def fields(self, memory: Tensor) -> dict[str, Tensor]:
        """What `bitgen.batch.Batch` has of B images in `memory` [B, *shape]."""
        stored = memory if self.kind == "int8" else memory.view(torch.float16)
        return {"images": memory.new_empty(len(memory), 3, 0, 0), "features": stored}


def pack(features: Tensor, kind: Kind) -> Tensor:
    """[B, N, bytes of a token] uint8, of `features` [B, N, D] float32. Values that are not finite stay so, or become so."""
    if kind == "fp16":
        return features.half().view(torch.uint8)
    scale = (features.abs().amax(dim=-1, keepdim=True) / 127).half()
    steps = features / scale.float().masked_fill(scale == 0, 1)
    values = steps.round().clamp(-127, 127).to(torch.int8)
    return torch.cat([scale.view(torch.uint8), values.view(torch.uint8)], dim=-1)


def unpack(stored: Tensor) -> Tensor:
    """[B, N, D] float32 of `Batch.features`, where they are: [B, N, D] of a float type, or [B, N, 2 + D] uint8 with the scale
    before the values of each token."""
    if stored.is_floating_point():
        return stored.float()
    scale = stored[..., :_SCALE_BYTES].contiguous().view(torch.float16)
    return stored[..., _SCALE_BYTES:].view(torch.int8) * scale.float()


def _header(kind: Kind, patches: int, width: int) -> bytes:
    """What stands before the values in a `.npy` file. All members of a form have the same, so a reader compares it and
    parses nothing."""
    if kind == "int8":
        array = np.empty(patches, np.dtype([("scale", "<f2"), ("values", "i1", (width,))]))
    else:
        array = np.empty((patches, width), "<f2")
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    return file.getvalue()
