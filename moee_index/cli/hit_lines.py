"""A hit for people: a line with scores, id and title, then the best part of the text on another;
words of the query are bold on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moee_index.cli.streams import say_marked
from moee_index.text import columns, escaped

if TYPE_CHECKING:
    from moee_index.index.snippets import Mark, Snippets

# A part of a line, and whether it is a word of the query.
Piece = tuple[str, bool]
# Before what stands below the line of a hit.
_INDENT = " " * 5
# A text of more characters for each column does not fit, whatever blanks are in it.
_LOOKED_AT = 8


def say_hit(
    start: str, title: object, text: str, snippets: Snippets, width: int, full: bool
) -> None:
    """A hit on one line where title and text fit, else on two; full: on as many as it takes."""
    room = max(20, width - columns(start))
    heading = _heading(title, snippets)
    between = [(" · ", False)] if heading else []
    if not full and len(text) <= _LOOKED_AT * room:
        line = [*heading, *between, *_pieces(text, snippets)]
        if _columns(line) <= room:
            say_marked([(start, False), *line])
            return
    say_marked([(start, False), *_fitted(heading, room)] if heading else [(start.rstrip(), False)])
    if full:
        for paragraph in _lines(text, snippets):
            say_marked([(_INDENT, False), *paragraph])
        return
    room = width - len(_INDENT)
    snippet = snippets.snippet(text, room)
    line = _cut_up(snippet.text, snippet.marks)
    if _columns(line) > room:
        # Letters of two columns, or what is shown as an escape.
        snippet = snippets.snippet(text, room * len(snippet.text) // _columns(line))
        line = _fitted(_cut_up(snippet.text, snippet.marks), room)
    say_marked([(_INDENT, False), *line])


def _heading(title: object, snippets: Snippets) -> list[Piece]:
    return _pieces(title, snippets) if isinstance(title, str) and title.strip() else []


def _pieces(text: str, snippets: Snippets) -> list[Piece]:
    """All of a text on one line."""
    line = " ".join(text.split())
    return _cut_up(line, snippets.marks(line))


def _lines(text: str, snippets: Snippets) -> Iterator[list[Piece]]:
    """A whole text, line by line as it was written."""
    marks = snippets.marks(text)
    start = number = 0
    for line in text.splitlines(keepends=True):
        stop = start + len(line)
        within = []
        while number < len(marks) and marks[number][0] < stop:
            within.append((marks[number][0] - start, marks[number][1] - start))
            number += 1
        yield _cut_up(line.rstrip("\r\n"), within)
        start = stop


def _cut_up(text: str, marks: Sequence[Mark]) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for start, stop in marks:
        pieces += [(text[end:start], False), (text[start:stop], True)]
        end = stop
    return [*pieces, (text[end:], False)]


def _columns(pieces: Sequence[Piece]) -> int:
    return sum(columns(escaped(text)) for text, _ in pieces)


def _fitted(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """Pieces within so many columns; an ellipsis stands for the rest."""
    if _columns(pieces) <= most:
        return list(pieces)
    fitted: list[Piece] = []
    left = most - 1
    for text, marked in pieces:
        for place, character in enumerate(text):
            left -= columns(escaped(character))
            if left < 0:
                return [*fitted, (text[:place], marked), ("…", False)]
        fitted.append((text, marked))
    return fitted
