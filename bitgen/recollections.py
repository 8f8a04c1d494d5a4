"""Names remembered for images, and what of them comes back for another image.

What it computes. One episode of `bitgen.model.memory` (Larimar's, arXiv 2403.11901): remembering writes the value z of a name, the
code of it as a text, at the key of an image, as training writes captions. Asked for an image, the memory gives there the mean r
[C] and the variance ν of a value about to be seen, and its confidence c in [0, 1), which is 0 where nothing was written. With
all names equally likely beforehand, a name's confidence is

    c · softmax over names of log N(z; r, ν 1) = c · softmax over names of -‖z - r‖² / 2ν

Forgetting subtracts what remembering added, and leaves nothing but fp32's rounding (some parts in 10⁷ of what is remembered
beside it); the memory of the last name forgotten is empty to the bit. Axes: N images of a name, Q asked for, C width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitgen.model.memory import EpisodicMemory, MemoryState
from bitgen.views import InputError


@dataclass(frozen=True)
class Recollection:
    """What the memory holds for an image."""

    names: dict[str, float]
    """Every remembered name and its confidence, 0..1, the surest first; empty where nothing is remembered. The sum is
    `familiarity`."""
    familiarity: float
    """How much the memory knows about images that look like this one, 0..1, whatever their names; exactly 0 where it is empty."""

    @property
    def name(self) -> str | None:
        """The surest name; None where nothing is remembered."""
        return next(iter(self.names), None)

    @property
    def confidence(self) -> float:
        """Of that name; 0.0 where nothing is remembered."""
        return next(iter(self.names.values()), 0.0)


@dataclass(frozen=True)
class _Written:
    keys: Tensor
    """[N, C]."""
    value: Tensor
    """[C], the same for all images of a name."""


class Recollections:
    """The names that a memory holds. Tensors are on the device of the memory."""

    def __init__(self, memory: EpisodicMemory) -> None:
        self._memory = memory
        self._state: MemoryState = memory.empty(1)
        self._written: dict[str, _Written] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were first remembered."""
        return tuple(self._written)

    def remember(self, keys: Tensor, value: Tensor, name: str) -> None:
        """Write `value` [C] at `keys` [N, C]. A name that is there already has these images as well from now on."""
        written = _Written(keys.float(), value.float())
        self._state = self._memory.write(self._state, *_rows(written))
        if name in self._written:
            written = _Written(torch.cat([self._written[name].keys, written.keys]), written.value)
        self._written[name] = written

    def forget(self, name: str) -> None:
        """All images of the name leave the memory. Raises `InputError` where it is not remembered."""
        if name not in self._written:
            raise InputError(
                f"expected a remembered name, {', '.join(map(repr, self.names)) or 'none so far'}; found {name!r}"
            )
        written = self._written.pop(name)
        # With the last one gone there is nothing to subtract from: zeros are what is left, without their rounding.
        is_last = not self._written
        self._state = self._memory.empty(1) if is_last else self._memory.forget(self._state, *_rows(written))

    def recall(self, keys: Tensor) -> list[Recollection]:
        """What is held at each of `keys` [Q, C]."""
        if not self._written:
            return [Recollection({}, 0.0) for _ in keys]
        reading = self._memory.read(self._state, keys.float()[None])
        values = torch.stack([written.value for written in self._written.values()])
        # Without products: ‖z‖² - 2 z r + ‖r‖² loses the digits of small distances.
        distance = torch.cdist(reading.values[0], values, compute_mode="donot_use_mm_for_euclid_dist")
        shares = (-distance.square() / (2 * reading.novelty[0, :, None])).softmax(dim=-1)
        return [
            _recollection(self.names, row, familiarity)
            for row, familiarity in zip(shares.tolist(), reading.confidence[0].tolist(), strict=True)
        ]


def _rows(written: _Written) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [1, N, C] and mask [1, N] of one episode."""
    keys = written.keys[None]
    return keys, written.value.expand_as(keys), torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)


def _recollection(names: tuple[str, ...], shares: list[float], familiarity: float) -> Recollection:
    ranked = sorted(zip(names, shares, strict=True), key=lambda pair: -pair[1])
    return Recollection({name: familiarity * share for name, share in ranked}, familiarity)
