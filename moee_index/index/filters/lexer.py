"""The tokens of a filter, and its errors, each with its position.

`grammar` describes how texts, numbers, names and operators are written, and checks their order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from moee_index.errors import MisuseError
from moee_index.index.store.field_names import KEYWORDS, bare_end, continues_name, starts_name

MAX_NAMES = 50  # of one field; odd names become a join each, and SQLite joins at most 64

_OPERATORS = ("==", "!=", "<>", "<=", ">=", "=", "<", ">")  # the longer first
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MAX_DIGITS = 400  # no double has more before its point; int() is slow or refuses from there on
_ESCAPES = {
    **dict(zip("\"'\\/", "\"'\\/", strict=True)),
    **dict(zip("bfnrt", "\b\f\n\r\t", strict=True)),
}
_HEX4 = re.compile(r"[0-9A-Fa-f]{4}")


class FilterError(MisuseError):
    """A filter that cannot be read, or that asks what no document has.

    position: 1-based column in the filter's text, which the message names too.
    """

    def __init__(self, message: str, position: int = 1) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class Value:
    """kind: number, text, boolean or null. content: what it is in Python. position: 1-based."""

    kind: str
    content: str | int | float | bool | None
    position: int


@dataclass(frozen=True)
class Token:
    """kind: name, word (a keyword, in lower case), value, operator, `(`, `)`, `,`, end.
    of_metadata: of a name that begins with a dot."""

    kind: str
    text: str
    position: int
    path: tuple[str, ...] = ()
    value: Value | None = None
    of_metadata: bool = False


def fail(text: str, position: int, message: str) -> NoReturn:
    """Raise FilterError in one line, with the words of the filter around the position."""
    start, end = max(0, position - 13), position + 19
    excerpt = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
    # repr: no control character, half surrogate or line end reaches a terminal.
    raise FilterError(f"filter, position {position}, near {excerpt!r}: {message}", position)


class Tokens:
    """The tokens of a filter one by one, so that the first mistake is the one reported."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._at = 0

    def next(self) -> Token:
        text = self.text
        while self._at < len(text) and text[self._at].isspace():
            self._at += 1
        start = self._at
        if start == len(text):
            return Token("end", "", start + 1)
        first = text[start]
        if first in "\"'":
            content = self._quoted(first)
            return self._token(start, "value", Value("text", content, start + 1))
        # A dot in front: the metadata's field, where the document's own has that name.
        after = text[start + 1 : start + 2] if first == "." else first
        if after == "`" or (after and starts_name(after)):
            return self._name()
        if first.isdecimal() or first in "-.+":
            return self._number()
        for operator in ("(", ")", ",", *_OPERATORS):
            if text.startswith(operator, start):
                self._at += len(operator)
                return self._token(start, operator if operator in "()," else "operator")
        if first in "“”‘’«»„":
            fail(text, start + 1, "quotes are \" or ', not typographic ones")
        if first in "&|!":
            fail(text, start + 1, f"{first!r} is not an operator; write and, or, not, !=")
        fail(
            text,
            start + 1,
            f"the character {first!r} means nothing here; put text into quotes, odd field names "
            "into backticks",
        )

    def _token(self, start: int, kind: str, value: Value | None = None) -> Token:
        return Token(kind, self.text[start : self._at], start + 1, value=value)

    def _name(self) -> Token:
        start = self._at
        of_metadata = self.text.startswith(".", start)
        self._at += of_metadata
        path = [self._segment()]
        while self.text.startswith(".", self._at):
            self._at += 1
            path.append(self._segment())
        if len(path) > MAX_NAMES:
            fail(self.text, start + 1, f"a field has at most {MAX_NAMES} names joined by dots")
        written = self.text[start : self._at]
        if written.lower() in KEYWORDS:
            return Token("word", written.lower(), start + 1)
        return Token("name", written, start + 1, tuple(path), of_metadata=of_metadata)

    def _segment(self) -> str:
        start = self._at
        if self.text.startswith("`", start):
            return self._quoted("`")
        self._at = bare_end(self.text, start)
        if self._at == start:
            fail(
                self.text,
                start + 1,
                "expected a name after the dot; a name that begins with a digit or holds odd "
                "characters stands in backticks",
            )
        return self.text[start : self._at]

    def _quoted(self, quote: str) -> str:
        """Text between quotes; `_at` moves behind the closing one."""
        text, start = self.text, self._at
        parts: list[str] = []
        at = start + 1
        while True:
            if at >= len(text):
                what = "name in backticks" if quote == "`" else "text"
                fail(text, start + 1, f"this {what} is not closed: expected {quote} at its end")
            if text[at] == quote:
                if not text.startswith(quote, at + 1):
                    break
                parts.append(quote)
                at += 2
            elif text[at] == "\\" and quote != "`":
                escaped, at = self._escape(at)
                parts.append(escaped)
            else:
                parts.append(text[at])
                at += 1
        self._at = at + 1
        content = "".join(parts)
        try:  # two \u escapes may be the halves of one character
            content = content.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            fail(text, start + 1, "half a surrogate pair is not text")
        if "\0" in content:
            # SQLite's JSON ends a text, and a name, at U+0000 in some versions.
            fail(text, start + 1, "neither a text nor a name can hold U+0000")
        return content

    def _escape(self, at: int) -> tuple[str, int]:
        """The character that an escape at `at` means, and where the text continues."""
        letter = self.text[at + 1 : at + 2]
        if letter in _ESCAPES:
            return _ESCAPES[letter], at + 2
        if letter == "u" and (digits := _HEX4.match(self.text, at + 2)):
            return chr(int(digits[0], 16)), at + 6
        fail(
            self.text,
            at + 1,
            "unknown escape; known are \\\" \\' \\\\ \\/ \\b \\f \\n \\r \\t and \\u with four "
            "hexadecimal digits",
        )

    def _number(self) -> Token:
        text, start = self.text, self._at
        match = _NUMBER.match(text, start)
        after = text[match.end() : match.end() + 1] if match else ""
        if match is None or (after and (continues_name(after) or after in "-.+")):
            fail(
                text,
                start + 1,
                "this is not a number as JSON writes it; put text, dates too, into quotes",
            )
        self._at = match.end()
        written = match[0]
        number: int | float
        try:
            if len(written) > _MAX_DIGITS:
                raise OverflowError
            number = float(written) if match[1] or match[2] else int(written)
            if not math.isfinite(float(number)):
                raise OverflowError
        except OverflowError:
            fail(text, start + 1, "this number is too large, or has too many digits")
        return self._token(start, "value", Value("number", number, start + 1))
