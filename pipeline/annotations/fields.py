"""What an element of an annotation file says, each member of the type that it must have."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.rows import AnnotationError

Row = Mapping[str, Any]
"""One JSON object of an annotation file."""
Value = TypeVar("Value", str, int, float, list)
_MOST = 2**63 - 1


def table(row: Row, key: str, path: Path) -> list[Row]:
    """The list of objects under `key` of an element."""
    rows = row.get(key)
    if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
        found = f"an object with {', '.join(sorted(row)[:8])}"
        raise AnnotationError(f"expected a list of objects under {key!r}, found {found}: {path}")
    return rows


def value(row: Row, name: str, kind: type[Value], where: object) -> Value:
    """`row[name]`, of type `kind`; an int of 64 bits, so that numpy holds it.

    An int is good for a float, digits in a string for an int (MDETR writes both). Raises `AnnotationError`.
    """
    found: Any = row.get(name)
    if type(found) is kind and (not isinstance(found, int) or -_MOST <= found <= _MOST):
        return found
    if kind is int and isinstance(found, str) and found.strip().isdecimal() and len(found) < 100:
        found = int(found)
    elif kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    is_large = isinstance(found, int) and not -_MOST <= found <= _MOST
    if not isinstance(found, kind) or isinstance(found, bool) or is_large:
        raise AnnotationError(f"expected {name} of type {kind.__name__}, found {found!r:.80}: {where}")
    return found


def find_image(folder: Path, roots: Sequence[str], names: Sequence[str]) -> str:
    """The first of `names` that lies under one of the image roots; the first name when none does."""
    for name in names if len(names) > 1 else ():
        for root in roots:
            if os.path.isfile(f"{folder}/{root}/{name}"):  # a third of the time of Path's
                return name
    return names[0]
