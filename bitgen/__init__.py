"""BitGen: a tiny vision-language model and its training. Attributes load on first use (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgen.predictor import BitGen
    from bitgen.record import Box, Phrase, Sample, Text
    from bitgen.training.config import TrainConfig

__all__ = ["BitGen", "Box", "Phrase", "Sample", "Text", "TrainConfig"]

_HOMES = {
    "BitGen": "bitgen.predictor",
    "Box": "bitgen.record",
    "Phrase": "bitgen.record",
    "Sample": "bitgen.record",
    "Text": "bitgen.record",
    "TrainConfig": "bitgen.training.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
