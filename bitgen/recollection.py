"""What a memory of names holds for an image, as both runtimes say it: without torch, which `bitgen.recollections` needs."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Recollection:
    """What the memory holds for an image."""

    names: dict[str, float]
    """Every remembered name and its confidence, 0..1, the surest first; empty where nothing is remembered."""
    familiarity: float
    """How much the memory knows about images that look like this one, 0..1, whatever their names; exactly 0 where it is empty."""
    is_known: bool
    """Whether it has seen one: `EpisodicMemory.is_known`, which holds for up to half as many images as slots."""

    @property
    def name(self) -> str | None:
        """The surest name; None where the image is not known."""
        return next(iter(self.names), None) if self.is_known else None

    @property
    def confidence(self) -> float:
        """Of the surest name, known or not; 0.0 where nothing is remembered."""
        return next(iter(self.names.values()), 0.0)


def ranked(names: Iterable[str], confidences: Iterable[float]) -> dict[str, float]:
    """The surest first; of equals the one that was remembered first."""
    return dict(sorted(zip(names, confidences, strict=True), key=lambda pair: -pair[1]))
