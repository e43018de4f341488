"""The elements of a JSON array, or of a row of JSON objects, cut out of a stream of bytes.

Brackets and quotation marks alone are followed; what an element holds is left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from moee_index.readers import lines as files

_CHUNK = 2**16
_STRUCTURE = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')
_BLANK = b" \t\r\n\xef\xbb\xbf"


def elements(stream: IO[bytes], *, array: bool) -> Iterator[bytes | None]:
    """The bytes of each element without blanks around; None for one longer than MAX_LINE.

    array: elements between brackets, split at commas; else objects one behind the other.
    Raises ValueError, with a reason that fits behind `file:position: `, where the stream ends
    within an element or goes on behind the array.
    """
    cutter = _Cutter(1 if array else 0)
    while chunk := stream.read(_CHUNK):
        yield from cutter.cut(chunk)
    cutter.end()


class _Cutter:
    """How far the elements are cut. base: depth of brackets between elements."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._depth = 0
        self._in_string = False
        self._skip = 0  # bytes of the next chunk that a backslash before it escapes
        self._ended = False
        self._parts: list[bytes] = []
        self._size = 0

    def cut(self, chunk: bytes) -> Iterator[bytes | None]:
        """The elements that end in a chunk."""
        start, at = 0, self._skip
        self._skip = 0
        while match := (_IN_STRING if self._in_string else _STRUCTURE).search(chunk, at):
            at, sign = match.end(), match[0]
            if self._ended:
                break
            if self._in_string:
                at = self._within(sign, at, len(chunk))
            elif sign == b'"':
                self._in_string = True
            elif sign in b"{[":
                self._depth += 1
                if self._depth == self._base:
                    start = at
            elif self._ends(sign):
                stop = match.start() if self._base or sign == b"," else at
                self._keep(chunk[start:stop])
                start = at
                yield from self._taken()
        self._keep(chunk[start:])
        if self._ended and b"".join(self._parts).strip(_BLANK):
            raise ValueError("there is more behind the end of the array; were files joined?")

    def _within(self, sign: bytes, at: int, size: int) -> int:
        """Where to go on, behind a sign within a string."""
        if sign == b'"':
            self._in_string = False
        elif at < size:
            return at + 1
        else:
            self._skip = 1
        return at

    def _ends(self, sign: bytes) -> bool:
        """Whether an element, or with its last one the array, ends with a sign."""
        if sign == b",":
            return self._depth == self._base
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and self._base:
            self._ended = True
        return self._depth == 0

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= files.MAX_LINE:
            self._parts.append(part)
        else:
            self._parts.clear()

    def _taken(self) -> Iterator[bytes | None]:
        """The element that ends here; nothing where a comma is one too many."""
        whole = b"".join(self._parts).strip(_BLANK)
        if self._size > files.MAX_LINE:
            yield None
        elif whole:
            yield whole
        self._parts, self._size = [], 0

    def end(self) -> None:
        """The stream has ended. Raises ValueError unless an element has too."""
        unfinished = self._in_string or self._depth or b"".join(self._parts).strip(_BLANK)
        if unfinished or (self._base and not self._ended):
            what, sign = ("array", "]") if self._base else ("object", "}")
            raise ValueError(
                f"the {what} ends without its {sign}; was the file cut off, or is a quotation mark "
                "or bracket missing?"
            )
