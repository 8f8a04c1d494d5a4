"""JSON becomes a frozen dataclass of plain values, every field checked by its type."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A configuration holds a value outside its range, or a stored one has unknown fields."""


def build(kind: Any, fields: Any, where: str) -> Any:
    """A `kind` from the JSON object `fields`; `where` is its place in the file, for errors. Raises `ConfigError`."""
    if not isinstance(fields, dict):
        raise ConfigError(f"expected {where} to be an object, found {fields!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(fields) - set(hints))
    if unknown:
        raise ConfigError(f"expected the fields of {kind.__name__} in {where}, found {unknown[0]!r}")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in fields.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` from JSON as a field of type `hint`. Raises `ConfigError` where it is of another."""
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"expected {where} to be one of {get_args(hint)}, found {value!r}")
        return value
    kind = list if origin is tuple else origin or hint
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"expected {where} of type {kind.__name__}, found {value!r}")
    if isinstance(value, list):
        return tuple(_value(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if isinstance(value, dict):
        return {name: _value(get_args(hint)[1], item, f"{where}.{name}") for name, item in value.items()}
    return value
