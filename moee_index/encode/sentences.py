"""Where words and sentences of a text start and end.

A sentence ends
- at . ! ? … and their Arabic, Armenian, Ethiopic, Burmese and Khmer kin, closing quotes and
  brackets included, before a blank or the end of the text;
- at 。！？ and at the dandas of Indian scripts, closing quotes and brackets included, whatever
  follows;
- at a line break; at a single one only where the next line does not begin with a small letter, for
  else the text is probably wrapped to lines.
No end: the full stop of an initial (`J. Smith`, `U.S. law`, `e.g. this`), of a common English
abbreviation (`Dr.`, `etc.`), of `No. 5` and its like, of a number that begins a line (`1. First`);
a point inside a number is followed by no blank. Not known: abbreviations of other languages, an
abbreviation that does end its sentence (no end is seen there), names such as `Yahoo! Inc.`,
footnote marks behind the full stop (`so.[3] Then`), a quotation that ends inside a sentence
(「行く。」と言った), sentences without any of these signs (Thai). A wrong or a missed end costs a
less fortunate cut, never text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# Kinds of characters, as bits of a table over the basic plane.
_BLANK, _BREAK, _STOP, _FULL, _CLOSER = 1, 2, 4, 8, 16
_STOPS = ".!?…‼⁇⁈⁉‽．؟۔։።။។៕"
_FULL_STOPS = "。！？｡।॥"
_CLOSERS = "\"')]}’”»›」』）】》〉〕］｝｣"
_BREAKS = "\n\r\v\f\x85\u2028\u2029"


def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.zeros(0x10000, dtype=np.uint8)
    blanks = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
    for characters, kind in (
        (blanks, _BLANK),
        (_BREAKS, _BREAK),
        (_STOPS, _STOP),
        (_FULL_STOPS, _STOP | _FULL),
        (_CLOSERS, _CLOSER),
    ):
        kinds[[ord(character) for character in characters]] |= kind
    return kinds


_KINDS = _kinds()

_OPENERS = "([{\"'“‘«¿¡"
_BEFORE_INITIAL = '([{"“«.-'
_TITLES_AND_SHORT_FORMS = (
    "mr mrs ms messrs dr prof rev fr hon st mt ft sr jr gen col lt sgt capt cmdr maj adm gov sen "
    "rep pres supt vs etc al cf viz approx ca est inc ltd co corp bros dept univ ave blvd rd ed "
    "eds jan feb mar apr jun jul aug sep sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_TITLES_AND_SHORT_FORMS.split())
_OF_NUMBERED_THINGS = "no nos nr fig figs vol vols ch sec sect art eq eqs p pp pt"
_BEFORE_NUMBERS = frozenset(_OF_NUMBERED_THINGS.split())


@dataclass(frozen=True)
class Marks:
    """Positions in a text, int [n] each, ascending. Ends are after the last non-blank character,
    starts are at the first; a sentence start is what follows a sentence end."""

    word_starts: IntArray
    word_ends: IntArray
    sentence_starts: IntArray
    sentence_ends: IntArray


def mark(text: str) -> Marks:
    """All words and sentences; linear in the text, whatever it holds."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _KINDS[np.minimum(codes, 0xFFFF)]
    edges = np.diff(kinds & _BLANK, prepend=np.uint8(1), append=np.uint8(1))
    # uint8 differences: 255 from a blank to a word, 1 from a word to a blank
    starts, ends = np.flatnonzero(edges == 255), np.flatnonzero(edges == 1)
    positions = np.arange(len(codes), dtype=np.int32)
    trailing = kinds & (_STOP | _CLOSER) != 0

    is_end = np.zeros(len(codes) + 1, dtype=bool)
    full = kinds & _FULL != 0
    if full.any():
        following = np.where(trailing, np.int32(len(codes)), positions)
        is_end[np.minimum.accumulate(following[::-1])[::-1][full]] = True
    broken = _broken(codes, kinds, starts, ends)
    is_end[ends[broken]] = True
    is_end[ends[_stopped(text, codes, kinds, trailing, starts, ends, broken)]] = True

    sentence_ends = np.flatnonzero(is_end)
    words = ends.searchsorted(sentence_ends, "right")
    more = words < len(starts)
    sentence_starts = np.maximum(sentence_ends[more], starts[words[more]])
    return Marks(starts, ends, np.unique(sentence_starts), sentence_ends)


def _broken(
    codes: npt.NDArray[np.uint32],
    kinds: npt.NDArray[np.uint8],
    starts: IntArray,
    ends: IntArray,
) -> npt.NDArray[np.bool_]:
    """Whether behind each word the line breaks and a sentence ends with it; not the last word."""
    breaks = kinds & _BREAK != 0
    breaks[:-1] &= ~((codes[:-1] == ord("\r")) & (codes[1:] == ord("\n")))
    counted = np.concatenate((np.zeros(1, np.int32), np.cumsum(breaks, dtype=np.int32)))
    between = counted[starts[1:]] - counted[ends[:-1]]
    broken = np.append(between > 0, False)[: len(ends)]
    single = np.flatnonzero(between == 1)
    broken[single] &= ~np.char.islower(codes[starts[single + 1]].view("<U1"))
    return broken


def _stopped(
    text: str,
    codes: npt.NDArray[np.uint32],
    kinds: npt.NDArray[np.uint8],
    trailing: npt.NDArray[np.bool_],
    starts: IntArray,
    ends: IntArray,
    broken: npt.NDArray[np.bool_],
) -> IntArray:
    """The numbers of the words that end with a stop, and closers behind it, and a sentence."""
    positions = np.arange(len(codes), dtype=np.int32)
    body = np.maximum.accumulate(np.where(trailing, np.int32(-1), positions))[ends - 1]
    stops = np.maximum.accumulate(np.where(kinds & _STOP != 0, positions, np.int32(-1)))[ends - 1]
    words = np.flatnonzero(stops > body)
    stops = stops[words]
    # Only a full stop by itself can belong to an abbreviation: not the last one of three.
    behind_stop = (stops > 0) & (kinds[np.maximum(stops - 1, 0)] & _STOP != 0)
    firsts = starts[words]
    alone = (codes[stops] == ord(".")) & ~behind_stop & (stops > firsts)
    unsure = np.flatnonzero(alone)
    afters = np.append(starts, len(text))[words[unsure] + 1]
    begins_line = np.insert(broken, 0, True)[words[unsure]]
    ending = np.ones(len(words), dtype=bool)
    ending[unsure] = [
        not _abbreviated(text, *arguments)
        for arguments in zip(
            firsts[unsure].tolist(),
            stops[unsure].tolist(),
            afters.tolist(),
            begins_line.tolist(),
            strict=True,
        )
    ]
    return words[ending]


def _abbreviated(text: str, start: int, stop: int, after: int, begins_line: bool) -> bool:
    """Whether the full stop at `stop`, of the word from `start` on, belongs to the word; `after` is
    where the next word starts."""
    stem = text[max(start, stop - 9) : stop]
    if stem[-1:].isalpha() and stem[-2:-1] in _BEFORE_INITIAL:
        return True
    stem = stem.lstrip(_OPENERS).lower()
    if stem in _ABBREVIATIONS:
        return True
    if stem in _BEFORE_NUMBERS:
        return text[after : after + 1].isdigit()
    return begins_line and len(stem) <= 3 and stem.isdigit()
