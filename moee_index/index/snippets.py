"""The best part of a hit's text for people: where most, and the rarest, words of the query stand
together, cut at words and sentences, with where the matched words are in it.

Words are matched as in searches by words, whether these count in the score or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moee_index.index.lexical.places import Place, continues, find_words
from moee_index.index.lexical.words import Words, chunks, surfaces
from moee_index.index.store.manifest import Manifest

# Characters of a snippet unless somebody says otherwise.
WIDTH = 200
# A snippet has at most so many fragments, each of so many characters or more.
_FRAGMENTS = 3
LEAST = 40
_BETWEEN = " … "
_CUT = "…"
# What ends a sentence; a blank behind it where the script has blanks.
_ENDS = (". ", "! ", "? ", "… ", "। ", "؟ ", "。", "！", "？")
# So much more weight pays for another fragment, which is harder to read.
_WORTH = 1.25
# Weights are whole numbers, so that adding and taking away leaves nothing.
_SCALE = 1000
_LONG_WORD = 12

Mark = tuple[int, int]
Fragment = tuple[int, int]


@dataclass(frozen=True)
class Snippet:
    """A part of a text on one line. marks: characters [start, stop) of it that are words of the
    query, ascending and apart."""

    text: str
    marks: tuple[Mark, ...]

    def as_json(self) -> dict[str, Any]:
        """As a hit in JSON has it."""
        return {"snippet": self.text, "marks": self.marks}


class HoldsTexts(Protocol):
    """An opened index, wherever its segments are; a `Snapshot` is one."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def words(self) -> Words: ...
    def rows_with(self, terms: Collection[str]) -> Mapping[str, int]:
        """How many rows hold each word, those that do not count included."""


class Snippets:
    """Makes the snippets of one query's hits. weights: how much each word (as the index compares
    words) counts for the choice of a part."""

    def __init__(self, words: Words, weights: Mapping[str, float]) -> None:
        self._words = words
        self._weights = {term: 1 + round(_SCALE * weight) for term, weight in weights.items()}

    @classmethod
    def of(cls, index: HoldsTexts, query: str) -> Snippets:
        """For a query without signs. Rare words weigh much more; without postings, long ones do.

        Raises IndexDamagedError.
        """
        words = index.words
        terms = {words.stemmed(surface) for chunk in chunks(query) for surface in surfaces(chunk)}
        if index.manifest.language is None:
            return cls(words, {term: float(min(len(term), _LONG_WORD)) ** 2 for term in terms})
        rows = sum(segment.rows for segment in index.manifest.segments)
        holding = index.rows_with(terms)
        return cls(words, {term: math.log1p(rows / (1 + holding[term])) ** 2 for term in terms})

    def snippet(self, text: str, width: int = WIDTH) -> Snippet:
        """The best part of a text, at most `width` characters, or LEAST where that is more."""
        width = max(width, LEAST)
        line = " ".join(text.split())
        places = find_words(line, self._words, self._weights) if self._weights else []
        if len(line) <= width:
            return Snippet(line, _clipped(places, 0, len(line), 0))
        fragments = _expanded(line, _chosen(places, width, self._weights), width)
        return _joined(line, fragments, places)

    def marks(self, text: str) -> tuple[Mark, ...]:
        """Where words of the query stand in a text."""
        places = find_words(text, self._words, self._weights) if self._weights else []
        return _clipped(places, 0, len(text), 0)


def _chosen(places: Sequence[Place], width: int, weights: Mapping[str, int]) -> list[Fragment]:
    """What fragments hold of the words: one, or several where these hold more of them."""
    best: list[Fragment] = []
    most, every = 0, sum(weights[term] for term in {place.term for place in places})
    for count in range(1, _FRAGMENTS + 1):
        size = _size(width, count)
        if most == every or (count > 1 and size < LEAST):
            break
        left, total = places, 0
        fragments: list[Fragment] = []
        while left and len(fragments) < count:
            score, first, last = _densest(left, size, weights)
            stop = max(place.stop for place in left[first:last])
            fragments.append((left[first].start, stop))
            total += score
            held = {place.term for place in left[first:last]}
            left = [place for place in left if place.term not in held]
        if total > most * (_WORTH if count > 1 else 1):
            best, most = fragments, total
    return sorted(best)


def _size(width: int, count: int) -> int:
    """Characters of each of several fragments, without what shows that it is cut."""
    return (width - 2 * len(_CUT) - (count - 1) * len(_BETWEEN)) // count


def _densest(
    places: Sequence[Place], size: int, weights: Mapping[str, int]
) -> tuple[int, int, int]:
    """(score, first, last) of the run of places within `size` characters whose words weigh most,
    of equal ones that with more places, then the first."""
    counts: Counter[str] = Counter()
    score = last = 0
    best = (0, 0, 0, 0)
    for first, place in enumerate(places):
        while last < len(places) and (last <= first or places[last].stop - place.start <= size):
            term = places[last].term
            score += weights[term] if not counts[term] else 0
            counts[term] += 1
            last += 1
        if (score, last - first) > best[:2]:
            best = (score, last - first, first, last)
        counts[place.term] -= 1
        score -= weights[place.term] if not counts[place.term] else 0
    return best[0], best[2], best[3]


def _expanded(line: str, cores: Sequence[Fragment], width: int) -> list[Fragment]:
    """Fragments with what stands around them; the beginning where no word was found."""
    if not cores:
        return [(0, _end(line, 0, 0, width - len(_CUT)))]
    size = _size(width, len(cores))
    fragments: list[Fragment] = []
    for start, stop in cores:
        floor = fragments[-1][1] if fragments else 0
        if stop <= floor:
            continue
        begin = _begin(line, max(start, floor), max(0, size - (stop - start)), floor)
        end = _end(line, begin, min(stop, begin + size), begin + size)
        if end == len(line):
            begin = _word_at(line, max(floor, end - size), begin)
        if fragments and begin - fragments[-1][1] <= 1:
            begin = fragments.pop()[0]
        fragments.append((begin, end))
    return fragments


def _begin(line: str, start: int, room: int, floor: int) -> int:
    """Where a fragment begins whose words begin at `start`: with their sentence if there is room,
    else with some words before them."""
    earliest = max(floor, start - room)
    if earliest == 0 and start <= room // 2:
        return 0
    ends = [line.rfind(end, earliest, start) + len(end) for end in _found(line, earliest, start)]
    if ends:
        return max(ends)
    return _word_at(line, max(floor, start - room // 3), start)


def _found(line: str, low: int, high: int) -> Iterator[str]:
    yield from (end for end in _ENDS if end in line[low:high])


def _word_at(line: str, place: int, most: int) -> int:
    """Where the first word begins from a place on; where none does before `most`, the first
    character that is no part of another."""
    if place == 0 or line[place - 1] == " ":
        return place
    blank = line.find(" ", place, most)
    if blank >= 0:
        return blank + 1
    while place < most and continues(line, place):
        place += 1
    return place


def _end(line: str, begin: int, least: int, most: int) -> int:
    """Where a fragment ends, not before `least`: with a sentence, or a word, or a character."""
    if most >= len(line):
        return len(line)
    enough = max(least, begin + (most - begin) * 4 // 5)
    ends = [line.rfind(end, enough, most) + len(end.rstrip()) for end in _found(line, enough, most)]
    if ends:
        return max(ends)
    blank = line.rfind(" ", max(least, begin + 1), most + 1)
    if blank > 0:
        return blank
    end = most
    while end > max(least, begin + 1) and continues(line, end):
        end -= 1
    return end


def _joined(line: str, fragments: Sequence[Fragment], places: Sequence[Place]) -> Snippet:
    """Fragments as one text, an ellipsis where something is left out."""
    text = ""
    marks: list[Mark] = []
    for begin, end in fragments:
        if text:
            text += _BETWEEN
        elif begin > 0:
            text = _CUT
        marks.extend(_clipped(places, begin, end, len(text) - begin))
        text += line[begin:end].rstrip() if end < len(line) else line[begin:end]
    return Snippet(text + (_CUT if fragments[-1][1] < len(line) else ""), tuple(marks))


def _clipped(places: Sequence[Place], begin: int, end: int, move: int) -> tuple[Mark, ...]:
    """The places within [begin, end), moved, joined where they overlap or touch."""
    marks: list[Mark] = []
    for place in places:
        start, stop = max(place.start, begin) + move, min(place.stop, end) + move
        if start >= stop:
            continue
        if marks and start < marks[-1][1]:
            marks[-1] = marks[-1][0], max(stop, marks[-1][1])
        else:
            marks.append((start, stop))
    return tuple(marks)
