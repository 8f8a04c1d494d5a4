"""Names remembered for images, and what of them comes back for another image.

What it computes. One episode of `bitgen.model.memory` (Larimar's, arXiv 2403.11901), whose terms are used here. Remembering
writes the value z of a name, the code of it as a text, at the address w of an image, as training writes captions. What is
read at the address v of another image is then a sum of all that was written, each with its weight:

    v R0 + Σ α (z - w R0)        α = v Λ⁻¹ wᵀ / σ²

A name's confidence is the sum of the weights of its images, cut to 0..1: 0 where nothing of it is read. Values do not enter
it, so names may be as alike as they like: the value nearest to what is read is often that of another name, since a reading
stays between the prior and what was written.

Forgetting writes what is left into an empty memory: nothing stays of what is forgotten, not even its rounding.

Axes: N images of a name, M of all, Q asked for, K slots, C width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitgen.model.memory import EpisodicMemory, MemoryState
from bitgen.recollection import Recollection, ranked
from bitgen.views import InputError


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
        del self._written[name]
        self._state = self._memory.empty(1)
        for (
            written
        ) in self._written.values():  # again, rather than to subtract: no rounding is left of what is forgotten
            self._state = self._memory.write(self._state, *_rows(written))

    def recall(self, keys: Tensor) -> list[Recollection]:
        """What is held at each of `keys` [Q, C]."""
        if not self._written:
            return [Recollection({}, 0.0, is_known=False) for _ in keys]
        reading = self._memory.read(self._state, keys.float()[None])
        familiarity, is_known = reading.confidence[0].tolist(), self._memory.is_known(reading)[0].tolist()
        weights = self._weights(keys)
        counts = [len(written.keys) for written in self._written.values()]
        by_name = torch.stack([part.sum(dim=1) for part in weights.split(counts, dim=1)], dim=1).clamp(0, 1)
        return [
            Recollection(ranked(self.names, confidences), familiar, known)
            for confidences, familiar, known in zip(by_name.tolist(), familiarity, is_known, strict=True)
        ]

    def _weights(self, keys: Tensor) -> Tensor:
        """α, [Q, M], float64: how much of each written image there is in what is read at `keys` [Q, C]."""
        asked = self._memory.address(keys).double()
        written = self._memory.address(torch.cat([each.keys for each in self._written.values()])).double()
        precision = self._state.precision[0].double() + self._memory.prior_log_precision.double().exp().diag()
        return asked @ torch.linalg.solve(precision, written.T) / self._memory.noise().double()


def _rows(written: _Written) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [1, N, C] and mask [1, N] of one episode."""
    keys = written.keys[None]
    return keys, written.value.expand_as(keys), torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
