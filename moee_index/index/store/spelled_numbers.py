"""Numbers that texts spell: metadata of a format without types (CSV) hold every value as text, and
a filter that compares with a number reads those that are written in a number's shortest form.

    {"year": "2025", "price": "2.5", "zip": "01234"}  →  {"year": 2025, "price": 2.5}

The metadata themselves stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")
# No double has more before its point, and Python reads no more than some thousand.
_MOST_DIGITS = 400


def spelled_number(text: str) -> int | float | None:
    """The number that a text is, in its shortest form: `7`, `-2.5`, `1e-07`. None for all other
    texts, such as `007`, `+7`, `7.0`, `2.50`, ` 7`."""
    if len(text) > _MOST_DIGITS:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and not text.endswith(".0") and repr(float(text)) == text:
        return float(text)
    return None


def spelled_numbers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose text spells a number, with these numbers; nested objects' too."""
    numbers: dict[str, Any] = {}
    for name, value in metadata.items():
        number: Any = None
        if isinstance(value, str):
            number = spelled_number(value)
        elif isinstance(value, Mapping):
            number = spelled_numbers(value) or None
        if number is not None:
            numbers[name] = number
    return numbers
