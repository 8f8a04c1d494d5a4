"""Names remembered for images by the packed model's episodic memory: `bitgen.recollections` with NumPy, and a file of them.

What it computes is said there and in `bitgen.model.memory`; here in fp64. A name's confidence needs the images' addresses alone, so
a file of names holds the images' codes and no texts. Axes: N images of a name, M of all, Q asked for, K slots, C width.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.deploy.packed import ROWS, Packed
from bitgen.disk import sync
from bitgen.recollection import Recollection, ranked

try:
    import fcntl
except ImportError:  # Windows: two commands at once are then each other's risk
    fcntl = None

NOISE_FLOOR, KNOWN_EVIDENCE = 1e-2, 0.25
"""Of σ², and what makes an image known: `bitgen.model.memory`'s."""
FORMAT_VERSION = 1
MAX_NAME = 80
"""Characters."""
MAX_BYTES = 256 << 20
"""Of a file of names, which may come from elsewhere with its model: some 80,000 images."""

Array = NDArray[Any]


class MemoryFileError(Exception):
    """A file of remembered names is damaged, of another model or of another version; or a name is not in it."""


class Memory:
    """The memory of a packed model, with the codes [N, C] of the images that each name was remembered for."""

    def __init__(self, packed: Packed, written: Mapping[str, Array] | None = None) -> None:
        tensors = {
            name: packed.floats(f"memory.{name}").astype(np.float64)
            for name in ("addresses", "prior_log_precision", "log_noise")
        }
        config = packed.facts.config
        steps = config.memory_newton_steps if config.memory_inverse == "newton" else 0
        self._slots = config.memory_slots
        self._map = _address_map(tensors["addresses"], steps)
        self._prior = np.exp(tensors["prior_log_precision"])
        self._noise = NOISE_FLOOR + float(np.exp(tensors["log_noise"]))
        self._written = dict(written or {})

    @property
    def written(self) -> Mapping[str, Array]:
        """Codes [N, C] by name, in the order in which names were first remembered."""
        return self._written

    def remember(self, codes: NDArray[Any], name: str) -> None:
        """Images by their codes [N, C]. A name that is there already keeps those that it has.

        White space around a name is none of it. Raises `MemoryFileError` for a name of no characters or of too many.
        """
        name = name.strip()
        if not 1 <= len(name) <= MAX_NAME:
            raise MemoryFileError(f"expected a name of 1 to {MAX_NAME} characters, found {len(name)}")
        added = np.asarray(codes, np.float64)
        self._written[name] = np.concatenate([self._written[name], added]) if name in self._written else added

    def forget(self, name: str) -> None:
        """As if the name had never been written. Raises `MemoryFileError` where it is not there."""
        if name not in self._written:
            known = ", ".join(map(repr, self._written)) or "none so far"
            raise MemoryFileError(f"expected a remembered name, {known}; found {name!r}")
        del self._written[name]

    def recall(self, codes: NDArray[Any]) -> list[Recollection]:
        """What is held for each of the images with `codes` [Q, C]."""
        if not self._written:
            return [Recollection({}, 0.0, is_known=False) for _ in codes]
        written = self._address(np.concatenate(list(self._written.values())))
        asked = self._address(np.asarray(codes, np.float64))
        precision = written.T @ written / self._noise
        shares = asked @ np.linalg.solve(precision + np.diag(self._prior), written.T) / self._noise  # [Q, M]
        ends = np.cumsum([len(each) for each in self._written.values()])
        by_name = np.stack([part.sum(axis=1) for part in np.split(shares, ends[:-1], axis=1)], axis=1).clip(0, 1)
        confidence, is_known = self._familiarity(precision, asked)
        return [
            Recollection(ranked(self._written, row), float(confidence[q]), bool(is_known[q]))
            for q, row in enumerate(by_name.tolist())
        ]

    def _address(self, codes: Array) -> Array:
        """[.., K] of codes [.., C]."""
        centred = codes - codes.mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
        return normal @ self._map * self._slots**-0.5

    def _familiarity(self, precision: Array, asked: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Confidence [Q] in 0..1 and whether that is evidence of `KNOWN_EVIDENCE` writings or more, [Q]."""
        spread = self._prior**-0.5
        scaled = spread[:, None] * precision * spread
        whitened = asked * spread
        known = (whitened @ scaled * np.linalg.solve(scaled + np.eye(self._slots), whitened.T).T).sum(axis=1)
        prior = np.square(whitened).sum(axis=1)
        confidence = (known / prior.clip(1e-12)).clip(0, 1 - 1e-6)
        evidence = self._noise * confidence / (prior - known).clip(1e-12)
        return confidence, evidence >= KNOWN_EVIDENCE


def fingerprint(packed: Packed) -> str:
    """Of the weights that make an image's code and address: codes of one model mean nothing to another."""
    names = ("compressor.layers.0.weight", "image_norm.weight", "image_pool.query", "memory.addresses")
    stored = [name if name in packed.tensors else name.removesuffix(".weight") + ROWS for name in names]
    return hashlib.sha256(b"".join(packed.tensors[name].tobytes() for name in stored)).hexdigest()


def load(path: Path, packed: Packed) -> Memory:
    """The memory with the names of a file; empty where there is none. Raises `MemoryFileError`, `OSError`."""
    if not path.exists():
        return Memory(packed)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise MemoryFileError(f"expected a file of remembered names of {MAX_BYTES} bytes at most, found {size}: {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, model = found["format_version"], found["model"]
        written = {str(name): np.array(codes, np.float64) for name, codes in found["names"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MemoryFileError(f"expected a file of remembered names, found {error!r}: {path}") from error
    if version != FORMAT_VERSION:
        raise MemoryFileError(f"expected remembered names of format {FORMAT_VERSION}, found {version!r}: {path}")
    if model != fingerprint(packed):
        raise MemoryFileError(
            f"expected names remembered by this model, found another's; remember them again in another file, by --memory, "
            f"or remove this one: {path}"
        )
    width = packed.facts.config.width
    for name, codes in written.items():
        if codes.ndim != 2 or codes.shape[1] != width or not np.isfinite(codes).all():
            raise MemoryFileError(f"expected codes of {width} numbers for {name!r}, found {list(codes.shape)}: {path}")
    return Memory(packed, written)


@contextmanager
def changed(path: Path, packed: Packed) -> Iterator[Memory]:
    """The memory of a file, which is written when the block ends without an error.

    Nobody else changes the file meanwhile: who wants to waits, so that no name gets lost between two commands. Raises what `load`
    and `save` raise.
    """
    with path.with_name(f".{path.name}.lock").open("a") as lock:  # the file itself is replaced, this one stays
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        memory = load(path, packed)
        yield memory
        save(memory, path, packed)


def save(memory: Memory, path: Path, packed: Packed) -> None:
    """Write the names, whole or not at all, also when the power goes. Raises `OSError`."""
    names = {name: np.float32(codes).tolist() for name, codes in memory.written.items()}
    fields = {"format_version": FORMAT_VERSION, "model": fingerprint(packed), "names": names}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(fields) + "\n", encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _address_map(addresses: Array, newton_steps: int) -> Array:
    """[C, K] of reference addresses [K, C]: orthonormal rows transposed, or Newton's iteration for the inverse."""
    if not newton_steps:
        return np.linalg.solve(np.linalg.cholesky(addresses @ addresses.T), addresses).T
    inverse = addresses.T / np.square(addresses).sum()
    for _ in range(newton_steps):
        inverse = 2 * inverse - inverse @ (addresses @ inverse)
    return inverse
