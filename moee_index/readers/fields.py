"""What may be an id, a text or a title, whichever file it comes from.

Raises ValueError with a reason that fits after `file:line: `; where the value is is left to
the callers.
"""

from __future__ import annotations

from moee_index.readers.lines import json_kind


def id_of(value: object, what: str) -> str:
    """An id as text. what: what a message calls it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{what} is {json_kind(value)}; it must be text or a whole number")
    if value == "":
        raise ValueError(f"{what} is empty")
    return str(value)


def text_of(value: object, name: str) -> str:
    """The text of the field `name`, empty or not."""
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is {json_kind(value)}, not text")
    return value


def title_of(value: object, *, numbers: bool = False) -> str:
    """A title, empty if there is none. numbers: a number is allowed too."""
    if value is None:
        return ""
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, "title")
