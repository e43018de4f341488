"""Where words stand in a text as it was written, whatever NFKC and case folding make of it.

A text is looked at in what stands between blanks, each such token once; only tokens that hold a
word that is looked for are taken apart. Linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import cache
from typing import NamedTuple

from moee_index.index.lexical.words import LONGEST, Words, chunk_spans, chunks, divided

_TOKEN = re.compile(r"\S+")
# Letters that NFKC joins to the one before them, beside marks: Hangul's vowels and finals, also of
# half width, and the voicing signs of katakana of half width.
_JOINING = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb\uff9e\uff9f\uffa0-\uffdc]")


class Place(NamedTuple):
    """A word in a text: characters [start, stop), and the term that stands for it."""

    start: int
    stop: int
    term: str


def find_words(text: str, words: Words, wanted: Collection[str]) -> list[Place]:
    """Where terms stand in a text, by their beginnings; a compound and a part of it may overlap."""
    found: list[Place] = []
    known: dict[str, tuple[Place, ...]] = {}
    for token in _TOKEN.finditer(text):
        piece = token[0]
        places = known.get(piece)
        if places is None:
            places = tuple(_within(piece, words, wanted))
            if len(piece) <= LONGEST:
                known[piece] = places
        if places:
            begin = token.start()
            found.extend(Place(begin + one[0], begin + one[1], one[2]) for one in places)
    return found


def continues(text: str, place: int) -> bool:
    """Whether a character belongs to the one before it: a mark, a joiner or what stands behind one,
    a modifier of an emoji."""
    here, before = text[place], text[place - 1]
    if here.isascii():
        return before == "\u200d"
    return _is_mark(here) or here == "\u200d" or before == "\u200d" or "🏻" <= here <= "🏿"


@cache
def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or unicodedata.combining(character) > 0


def _within(piece: str, words: Words, wanted: Collection[str]) -> Iterator[Place]:
    """The places in one token, by their beginnings."""
    if all(term not in wanted for chunk in chunks(piece) for term in words.of_chunk(chunk)):
        return
    normal, starts, stops = _normalized(piece)
    for begin, end in chunk_spans(normal):
        for start, stop, surface in _surfaces(normal[begin:end]):
            term = words.stemmed(surface)
            if term in wanted:
                yield Place(starts[begin + start], stops[begin + stop - 1], term)


def _surfaces(chunk: str) -> Iterator[tuple[int, int, str]]:
    """The words of a chunk with where they stand, by their beginnings."""
    for compound in divided(chunk):
        for whole in compound.wholes:
            yield *compound.span, whole
        for (start, stop), part in zip(compound.spans, compound.parts, strict=True):
            yield start, stop, part


def _normalized(piece: str) -> tuple[str, range | list[int], range | list[int]]:
    """A token after NFKC, and for each character of that where what it came from starts and stops.

    Characters are normalized with the marks that follow them, which never join with others.
    """
    if unicodedata.is_normalized("NFKC", piece):
        return piece, range(len(piece)), range(1, len(piece) + 1)
    parts: list[str] = []
    starts: list[int] = []
    stops: list[int] = []
    start = 0
    for stop in range(1, len(piece) + 1):
        if stop < len(piece) and (_is_mark(piece[stop]) or _JOINING.match(piece[stop])):
            continue
        part = unicodedata.normalize("NFKC", piece[start:stop])
        parts.append(part)
        starts += [start] * len(part)
        stops += [stop] * len(part)
        start = stop
    return "".join(parts), starts, stops
