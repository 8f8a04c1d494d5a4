"""A memory's state as a file: safetensors, written whole or not at all, refused by a memory that it does not belong to.

Tensors: `precision` [E, K, K] and `information` [E, K, C], fp32, as in `MemoryState`.
Metadata: `format_version`, `episodes` (E), and `addresses`, the digest of everything that writing depends on.

S and η are sums over addresses, divided by σ². In a memory with other addresses or another σ² they mean nothing, and
forgetting from them would not be exact; a digest settles that, since shapes alone would fit. The prior is not part of it:
it is added on reading.
"""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bitgen.disk import sync
from bitgen.model.memory import EpisodicMemory, MemoryState

FORMAT_VERSION = 1


class MemoryFileError(Exception):
    """A memory's file is missing, damaged, of another format or another memory, or could not be written."""


def address_digest(memory: EpisodicMemory) -> str:
    """SHA-256, in hexadecimal, of what a state depends on: sizes, addresses, how they are inverted, and σ²."""
    steps = memory.steps if memory.pseudo_inverse == "newton" else 0
    digest = hashlib.sha256(json.dumps([memory.slots, memory.width, memory.pseudo_inverse, steps]).encode())
    for parameter in (memory.addresses, memory.log_noise):
        digest.update(parameter.detach().float().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def save_state(path: str | Path, memory: EpisodicMemory, state: MemoryState) -> None:
    """Write what `memory` was told to remember. Raises `MemoryFileError`; then the file is as it was before."""
    path = Path(path)
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "episodes": str(len(state.precision)),
        "addresses": address_digest(memory),
    }
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state._asdict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise MemoryFileError(f"expected to write a memory, found {error}: {path}") from error


def load_state(path: str | Path, memory: EpisodicMemory) -> MemoryState:
    """The state that `save_state` wrote, on `memory`'s device.

    Raises `MemoryFileError` where the file cannot be read, is of another format, was written by a memory of another size,
    other addresses or another noise, or holds a number that is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (OSError, SafetensorError) as error:
        raise MemoryFileError(f"expected a memory's safetensors file, found {error}: {path}") from error
    found = metadata.get("format_version")
    if found != str(FORMAT_VERSION):
        raise MemoryFileError(f"expected memory format {FORMAT_VERSION}, found {found}: {path}")
    episodes = metadata.get("episodes", "")
    expected = {
        "information": ("float32", [episodes, str(memory.slots), str(memory.width)]),
        "precision": ("float32", [episodes, str(memory.slots), str(memory.slots)]),
    }
    shapes = {
        name: (str(t.dtype).removeprefix("torch."), [str(size) for size in t.shape]) for name, t in tensors.items()
    }
    if shapes != expected:
        raise MemoryFileError(f"expected {_in_words(expected)}, found {_in_words(shapes)}: {path}")
    digest = address_digest(memory)
    if metadata.get("addresses") != digest:
        raise MemoryFileError(
            f"expected a memory written with this model's addresses and noise, {digest[:12]}, "
            f"found {str(metadata.get('addresses'))[:12]}: {path}"
        )
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise MemoryFileError(f"expected finite numbers in {name}, found others: {path}")
    device = memory.addresses.device
    return MemoryState(tensors["precision"].to(device), tensors["information"].to(device))


def _in_words(shapes: dict[str, tuple[str, list[str]]]) -> str:
    return (
        ", ".join(f"{name} {kind} [{', '.join(sizes)}]" for name, (kind, sizes) in sorted(shapes.items()))
        or "no tensors"
    )
