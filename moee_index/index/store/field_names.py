"""How a metadata field's name is written, in fields.sqlite and in filters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# What a filter finds under these bare names is the document's own, whatever its metadata hold.
OWN = ("id", "text")
KEYWORDS = frozenset({"and", "or", "not", "in", "contains", "exists", "true", "false", "null"})


def dotted(path: Sequence[str]) -> str:
    """A field's name in one form only: backticks where the grammar needs them, and nowhere else."""
    return ".".join(
        name if _is_bare(name) and name.lower() not in KEYWORDS else _in_backticks(name)
        for name in path
    )


def asked_as(name: str) -> str:
    """How a filter asks for the metadata field of this name (as `dotted` writes it): behind a dot
    where the document's own id or text has the name."""
    return f".{name}" if name.partition(".")[0] in OWN else name


def _in_backticks(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def starts_name(character: str) -> bool:
    return character == "_" or character.isalpha()


def continues_name(character: str) -> bool:
    # Vowel signs and other marks (category M) are part of words in many scripts.
    return character == "_" or character.isalnum() or unicodedata.category(character)[0] == "M"


def bare_end(text: str, start: int) -> int:
    """Where the bare name that begins at `start` ends; `start` if none begins there."""
    if start >= len(text) or not starts_name(text[start]):
        return start
    at = start + 1
    while at < len(text):
        if continues_name(text[at]):
            at += 1
        elif text[at] == "-" and at + 1 < len(text) and continues_name(text[at + 1]):
            at += 2
        else:
            break
    return at


def _is_bare(name: str) -> bool:
    return name != "" and bare_end(name, 0) == len(name)
