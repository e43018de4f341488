"""What is text, and how somebody's text is shown on one line of a terminal.

Texts come from files, command lines and callers; whoever takes one asks here whether it is one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from moee_index.errors import MisuseError

_SURROGATE = re.compile("[\ud800-\udfff]")
# Characters without a look of their own that words are spelled with: joiners, soft hyphens.
_SPELLING = "\u00ad\u200c\u200d"
_WITHOUT_COLUMN = frozenset({"Mn", "Me", "Cf"})
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def text_fault(value: object) -> str | None:
    """Why a value is not a text, to follow what it is called ("is None, not text"); None for a
    text."""
    if not isinstance(value, str):
        kind = "None" if value is None else f"of type {type(value).__name__}"
        return f"is {kind}, not text"
    if half := _SURROGATE.search(value):
        place = f"character {half.start() + 1}"
        code = ord(half[0])
        if 0xDC80 <= code <= 0xDCFF:  # how Python passes on bytes that it could not decode
            return f"is not UTF-8 (byte 0x{code - 0xDC00:02x} at {place})"
        return f"holds half a surrogate pair (\\u{code:04x} at {place}), which is not text"
    return None


def check_text(value: object, what: str) -> str:
    """The value, which is a text. what: what a message calls it. Raises MisuseError."""
    if fault := text_fault(value):
        raise MisuseError(f"{what} {fault}")
    assert isinstance(value, str)
    return value


def check_texts(values: Iterable[str], what: str = "text") -> list[str]:
    """Several texts as a list; what: what a message calls one of them.

    Raises MisuseError for a text where several are meant (its letters would be taken for them),
    and naming the position from 0 of what is not a text.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        kind = "one text" if isinstance(values, str) else f"of type {type(values).__name__}"
        raise MisuseError(f"{what}s are given as a list, and this is {kind}; write [{what}]")
    taken = list(values)
    for position, value in enumerate(taken):
        if fault := text_fault(value):
            raise MisuseError(f"{what} {position} {fault}")
    return taken


def escaped(text: str) -> str:
    """A text in which nothing acts on a terminal: control characters, line ends, bidirectional
    marks and halves of pairs are shown as escapes (`\\x1b`, `\\u202e`)."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character in _SPELLING or unicodedata.category(character) not in _ACTING
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def one_line(text: str) -> str:
    """A text on one line, escaped, its blanks and line ends squeezed to single blanks."""
    return escaped(" ".join(text.split()))


def shown(text: str, most: int = 60) -> str:
    """Somebody's text in a message: one line, printable, at most `most` characters."""
    return cut(escaped(text[: most + 1]), most)


def columns(text: str) -> int:
    """Columns of a terminal that a printable text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in _WITHOUT_COLUMN:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(line: str, most: int) -> str:
    """At most `most` characters of a line; an ellipsis stands for the rest."""
    return line if len(line) <= most else line[: most - 1] + "…"
