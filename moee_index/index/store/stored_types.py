"""Whether values read from JSON are what a dataclass says its fields are.

Reads the type hints themselves, so that a field is told once.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from moee_index.text import text_fault


def check_types(value: Any) -> None:
    """Raises ValueError naming a field of a dataclass that is not of its type: a bool is no number,
    a number is finite, a text is one that UTF-8 can hold."""
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        if not _fits(getattr(value, name), hint):
            raise ValueError(f"{name} is not what belongs there")


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Field → type. Kept: evaluating them takes milliseconds, and a manifest lists many files."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(each, arguments[1]) for key, each in value.items()
        )
    if origin is tuple:
        return isinstance(value, Sequence) and all(_fits(each, arguments[0]) for each in value)
    if origin is not None:  # Pair[T], whose parts are all T
        return isinstance(value, origin) and all(_fits(each, arguments[0]) for _, each in value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, hint):
            return False
        check_types(value)
        return True
    return _is_plain(value, hint)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is str:
        return text_fault(value) is None
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float)
        return number and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)
