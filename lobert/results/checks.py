"""JSON that was read against the types it should have, and numbers that JSON has."""

import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints, is_typeddict


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value has the annotated type; whole numbers pass as floats, truth values only as themselves."""
    inner = get_args(kind)
    if kind is Any:
        return True
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in inner)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        return isinstance(value, dict) and all(name in value and fits(value[name], hints[name]) for name in hints)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if get_origin(kind) in (dict, Mapping):
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def no_number(word: str) -> NoReturn:
    """Refuse what JSON has no word for, as `parse_constant` of `json.loads`."""
    raise ValueError(f"{word} is no number")
