"""What every worker needs is loaded once, by importing this, in the process that they are forked from."""

import sys

import pyarrow as pa

import pipeline.building.chunks
import pipeline.building.write  # noqa: F401 (for the workers)
from bitgen.tokens import shared_tokenizer


class _Without:
    """Keeps a package from being found."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# At its first array pyarrow imports pandas, to know its types, and never again: 0.2 s before the first task.
sys.meta_path.insert(0, without := _Without("pandas"))  # type: ignore[arg-type] (only its find_spec is called)
pa.array([0])
sys.meta_path.remove(without)  # type: ignore[arg-type] (likewise)
shared_tokenizer()
