"""A packed model: one safetensors file that says what it is, read with NumPy alone.

    8 bytes: length H of the header | H bytes of JSON: dtype, shape and place of each tensor | the tensors

Its tensors have the names of the model's parameters:

    NAME.codes + NAME.scale    a ternary weight NAME.weight (`layout.py`), and its scale, fp32 []
    NAME.rows + NAME.scales    bytes of a weight NAME.weight (or of a parameter NAME), and the scale of each row
    NAME.input_scale + _zero   of a linear map that multiplies bytes: its inputs are (code - zero) x scale, codes 0 to 255
    all others                 as they are called in the model, in fp16, fp32 or whole numbers

Under "bitgen" the header's metadata hold one JSON object, `Facts`. The vision tower has no adapters left: they are merged. Its
position embeddings are those of the one image size that the model takes.

Version 1 had scales of rows in fp32, nothing but the embedding and the tower's maps in bytes, and the ids of kept tokens in 32
bits. Each tensor says what it is in, so both are read alike.

Source: github.com/huggingface/safetensors (the format).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.layout import spread, unpack_ternary
from bitgen.tokens import FILES, MAX_TOKENS
from bitgen.training.config import ModelConfig
from bitgen.training.decode import build

FILE = "model.safetensors"
FORMAT_VERSION = 2
KEY = "bitgen"
"""Of the metadata."""
GRAPH_OF = "packed"
"""Of a graph's metadata: the `identity` of the file that it is over."""
CODES, SCALE, ROWS, SCALES = ".codes", ".scale", ".rows", ".scales"
INPUT_SCALE, INPUT_ZERO = ".input_scale", ".input_zero"
POSITIONS = "vision.backbone.embeddings.position_embeddings"
"""A parameter of its own: the one in rows whose name does not end with .weight."""
_DTYPES: Mapping[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "I32": np.int32,
    "U16": np.uint16,
    "I8": np.int8,
    "U8": np.uint8,
}
_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
MAX_IMAGE_PX = 4096
"""Of a side: 10 times what any is trained with; a file from elsewhere could ask for more memory than there is."""


class PackedError(Exception):
    """A packed file is missing, damaged, or of a version that this code does not know."""


@dataclass(frozen=True)
class Facts:
    """What a packed file says of its model."""

    config: ModelConfig
    """Its tower is `frozen`: without adapters."""
    vision: dict[str, Any]
    """The shape of the vision tower, as `VisionTower.config_dict` gives it, for images of `image_px`."""
    image_px: int
    """Side of the square that the model sees."""
    max_tokens: int
    """Of a text, its two end-of-texts included."""
    in_widths: dict[str, int]
    """Inputs of each ternary layer, by name: its bytes alone say it only up to a multiple of 4."""
    weight_bits: int
    """7 or 8, of rows of bytes."""
    tower: str
    """fp16; or int8: the linear maps of the tower's layers multiply bytes, and other matrices are kept in bytes."""
    tokenizer_sha256: str
    """Of GPT-2's two files, one after the other."""
    holdout_sha256: str
    """Of the evaluation images that training left out."""
    run: str
    phase: str
    step: int
    """Optimizer steps done."""


class Place(NamedTuple):
    """Where a tensor lies in the file."""

    dtype: str
    """Safetensors' name."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    size_bytes: int

    @property
    def elements(self) -> int:
        return self.size_bytes // np.dtype(_DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class Packed:
    path: Path
    facts: Facts
    places: Mapping[str, Place]
    tensors: Mapping[str, NDArray[Any]]
    """Read-only views of the file."""

    def floats(self, name: str) -> NDArray[np.float32]:
        """The tensor in fp32, whatever of the three forms it is in; of a ternary weight, its weights times their scale."""
        stem = name.removesuffix(".weight")
        if name in self.tensors:
            return self.tensors[name].astype(np.float32)
        if stem + CODES in self.tensors:
            return self.ternary(stem).astype(np.float32) * self.tensors[stem + SCALE]
        if stem + ROWS in self.tensors:
            codes = self.tensors[stem + ROWS]
            return codes.astype(np.float32) * spread(self.tensors[stem + SCALES], codes.ndim)
        raise PackedError(f"expected a tensor {name}, found none: {self.path}")

    def ternary(self, stem: str) -> NDArray[np.int8]:
        """The weights -1, 0, 1 [O, I] of a ternary layer."""
        try:
            return unpack_ternary(self.tensors[stem + CODES], self.facts.in_widths[stem])
        except (ValueError, KeyError) as error:
            raise PackedError(f"expected ternary codes of {stem}, found {error}: {self.path}") from error


def find(path: str | Path) -> Path:
    """The packed file that `path` means: itself, or the one of a folder."""
    path = Path(path)
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise PackedError(f"expected a packed model, a folder with {FILE} or such a file, found none: {path}")
    return found


def read(path: str | Path) -> Packed:
    """A packed file of any version so far. Raises `PackedError`. Nothing of it is copied, and no code of it run."""
    path = find(path)
    try:
        content = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(content[:8].tobytes(), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, len(content) - 8):
            raise PackedError(f"expected a safetensors file, found a header of {length} bytes: {path}")
        header = json.loads(content[8 : 8 + length].tobytes())
        facts = _facts(json.loads(header.pop("__metadata__", {}).get(KEY, "null")), path)
        places = {name: _place(name, fields, 8 + length, len(content), path) for name, fields in header.items()}
        tensors = {
            name: np.frombuffer(content, _DTYPES[at.dtype], at.elements, at.offset).reshape(at.shape)
            for name, at in places.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PackedError(f"expected a packed model, found {error!r}: {path}") from error
    return Packed(path, facts, places, tensors)


def identity(packed: Packed) -> str:
    """Of a packed file, without reading it all: a digest of its header and of its scales, which no two models share.

    Graphs carry that of the file whose places they name: over another one they would compute nonsense, and nothing would say so.
    """
    with packed.path.open("rb") as file:
        digest = hashlib.sha256(file.read(min((place.offset for place in packed.places.values()), default=8)))
    for name in sorted(packed.places):
        if packed.places[name].elements == 1:
            digest.update(packed.tensors[name].tobytes())
    return digest.hexdigest()


def _facts(fields: Any, path: Path) -> Facts:
    if not isinstance(fields, dict):
        raise PackedError(f"expected the metadata of a packed model under {KEY!r}, found none: {path}")
    found = fields.pop("format_version", None)
    readers = {1: _facts_since_version_1, 2: _facts_since_version_1}
    if found not in readers:
        raise PackedError(f"expected a packed format from 1 to {FORMAT_VERSION}, found {found!r}: {path}")
    return readers[found](fields)


def _facts_since_version_1(fields: dict[str, Any]) -> Facts:
    """Raises `ConfigError`, a ValueError, for a configuration that is none, and `ValueError` for sizes that no model has."""
    config = build(ModelConfig, fields.pop("config"), "metadata.config")
    facts = Facts(config=config, **fields)
    for name, largest in (("image_px", MAX_IMAGE_PX), ("max_tokens", MAX_TOKENS)):
        if type(fields[name]) is not int or not 1 <= fields[name] <= largest:
            raise ValueError(f"expected a whole {name} of 1 to {largest}, found {fields[name]!r}")
    return facts


def _place(name: str, fields: dict[str, Any], start: int, end: int, path: Path) -> Place:
    """Checked: what a file says of its own size is not trusted."""
    dtype, shape, (first, last) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    if dtype not in _DTYPES:
        raise PackedError(f"expected {name} in one of {', '.join(_DTYPES)}, found {dtype}: {path}")
    if any(type(each) is not int or each < 0 for each in (*shape, first, last)):
        raise PackedError(f"expected whole sizes and places of {name}, found {shape}, {first} and {last}: {path}")
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if not (first <= last <= end - start and last - first == size):
        raise PackedError(f"expected {size} bytes of {name} within the file, found {first} to {last}: {path}")
    return Place(dtype, shape, start + first, size)


def in_half(name: str, wide: NDArray[np.float32]) -> NDArray[np.float16]:
    """A tensor in fp16. Raises `PackedError` where it does not fit."""
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    if not np.isfinite(half).all():
        raise PackedError(f"expected finite weights within fp16 of {name}, found {np.abs(wide).max()}")
    return half


def tokenizer_sha256() -> str:
    """Of GPT-2's two files as they are embedded."""
    return hashlib.sha256(b"".join((FILES / name).read_bytes() for name in ("vocab.json", "merges.txt"))).hexdigest()
