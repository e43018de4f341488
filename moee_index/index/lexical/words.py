"""Text to words: what documents and queries are compared by beside their vectors.

Unicode words after NFKC and case folding. What is written together (`e-mail`, `snake_case`,
`CamelCase`, `HTTP/2`, `5mg`) is one word without its signs and its parts as well, so that `email`
finds `e-mail` and `mail` does too. Scripts without blanks between words (Chinese, Japanese, Thai,
Lao, Khmer, Burmese) are read in overlapping pairs. There is no list of stop words: what is in most
documents weighs next to nothing.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import accumulate, pairwise
from operator import add

from moee_index.dependencies import internal
from moee_index.index.lexical.language import LANGUAGES, NO_LANGUAGE, check_language

_RULES = 1
# Characters of a word at most, and parts of a compound that is also kept whole.
LONGEST = 64
_MOST_PARTS = 8
# Characters of a long text that are looked at together, and some more until a blank.
_PIECE = 1 << 18
# Chunks that are remembered with their words.
_REMEMBERED = 1 << 17

# What stands within words beside letters and digits: combining marks, which Python's \w lacks ...
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711-\u07f3\u07fd\u0816-\u082d"
    "\u0859-\u085b\u0898-\u08e1\u08e3-\u0963\u0981-\u09e3\u09fe-\u0a75\u0a81-\u0ae3\u0afa-\u0b63"
    "\u0b82-\u0bd7\u0c00-\u0c63\u0c81-\u0c83\u0cbc-\u0d4d\u0d57-\u0d63\u0d81-\u0df3\u0e31-\u0e3a"
    "\u0e47-\u0e4e\u0eb1-\u0ecd\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84\u0f86-\u0fbc\u0fc6"
    "\u102b-\u103e\u1056-\u109d\u135d-\u135f\u1712-\u1734\u1752-\u17d3\u17dd\u180b-\u180d"
    "\u180f-\u193b\u1a17-\u1a1b\u1a55-\u1a7f\u1ab0-\u1b44\u1b6b-\u1b73\u1b80-\u1bf3\u1c24-\u1c37"
    "\u1cd0-\u1cd2\u1cd4-\u1dff\u20d0-\u20f0\u2cef-\u2cf1\u2d7f-\u2dff\u302a-\u302f\u3099\u309a"
    "\ua66f-\ua672\ua674-\ua67d\ua69e-\ua6f1\ua802-\ua827\ua82c\ua880-\ua8c5\ua8e0-\ua8f1"
    "\ua8ff-\ua92d\ua947-\ua953\ua980-\ua9c0\ua9e5-\uaa4d\uaa7b-\uaac1\uaaeb-\uaaef\uaaf5\uaaf6"
    "\uabe3-\uabea\uabec\uabed\ufb1e\ufe00-\ufe0f\ufe20-\ufe2f\U000101fd-\U0001037a"
    "\U00010a01-\U00010a3f\U00010ae5\U00010ae6\U00010d24-\U00010eac\U00010f46-\U00010f50"
    "\U00010f82-\U00010f85\U00011000-\U00011046\U00011070-\U000110ba\U000110c2"
    "\U00011100-\U00011134\U00011145-\U00011173\U00011180-\U000111c0\U000111c9-\U000111cc"
    "\U000111ce\U000111cf\U0001122c-\U00011237\U0001123e\U000112df-\U00011446"
    "\U0001145e-\U000114c3\U000115af-\U000115c0\U000115dc-\U00011640\U000116ab-\U000116b7"
    "\U0001171d-\U0001172b\U0001182c-\U0001183a\U00011930-\U00011943\U000119d1-\U000119e0"
    "\U000119e4-\U00011a3e\U00011a47-\U00011a99\U00011c2f-\U00011c3f\U00011c92-\U00011ef6"
    "\U00016af0-\U00016af4\U00016b30-\U00016b36\U00016f4f-\U00016f92\U00016fe4-\U00016ff1"
    "\U0001bc9d\U0001bc9e\U0001cf00-\U0001cf46\U0001d165-\U0001d169\U0001d16d-\U0001d172"
    "\U0001d17b-\U0001d182\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244"
    "\U0001da00-\U0001da36\U0001da3b-\U0001da6c\U0001da75\U0001da84\U0001da9b-\U0001daaf"
    "\U0001e000-\U0001e136\U0001e2ae-\U0001e2ef\U0001e8d0-\U0001e94a\U000e0100-\U000e01ef"
)
# ... and what is not seen: soft hyphens, joiners of no width.
_UNSEEN = "\u00ad\u200c\u200d\u2060\ufeff"
# Scripts without blanks: letters, of Thai to Burmese with their marks, but no digits.
_NO_BLANKS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d"
    "\u1780-\u17d3\u17d7\u17dc\u17dd\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u3035"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f\uf900-\ufaff"
    "\U0001aff0-\U0001b16f\U00020000-\U0003fffd"
)
_JOINED = r"(?:[-'’./&@·‐]|(?<=\d),(?=\d))"
_ENDED = r"(?:(?:\+\+?|\#)(?![\w+\#=]))?"
_ASCII = re.compile(rf"\w+(?:{_JOINED}\w+)*{_ENDED}", re.ASCII)
_WITHIN = rf"[\w{_MARKS}{_UNSEEN}]"
_UNICODE = re.compile(rf"{_WITHIN}+(?:{_JOINED}{_WITHIN}+)*{_ENDED}")
_RUN = re.compile(f"[{_NO_BLANKS}]+|[^{_NO_BLANKS}]+")
_LETTER = rf"(?:(?![\d_])[\w{_MARKS}])"
# A number and its unit; else letters and digits with what stands behind decimal points.
_PART = re.compile(
    rf"(\d+(?:[.,]\d+)*)({_LETTER}+)(?![\w{_MARKS}])"
    rf"|(?:(?!_)[\w{_MARKS}])+(?:(?<=\d)[.,]\d+)*"
)
_BLANK = re.compile(r"\s")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_ALONE = re.compile(f"[{_NO_BLANKS}]")
# The marks of scripts without blanks belong to the letter before them.
_WITH_MARKS = re.compile(
    ".[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecf\u102b-\u103e"
    "\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f"
    "\u109a-\u109d\u17b4-\u17d3\u17dd\u302a-\u302f\u3099\u309a\ua9e5\uaa7b-\uaa7d]*"
)


class Words:
    """Splits texts in one language, or in none, without stemming.

    Used from any thread. identity: what decides the words: the rules' version, Unicode's and,
    with a language, Snowball's; texts have the same words under the same identity.
    """

    def __init__(self, language: str = NO_LANGUAGE) -> None:
        check_language(language)
        self.identity = f"rules {_RULES}, Unicode {unicodedata.unidata_version}"
        self._stem: Callable[[str], str] | None = None
        if language != NO_LANGUAGE:
            name = LANGUAGES[language]
            module, stemmer = f"snowballstemmer.{name}_stemmer", f"{name.title()}Stemmer"
            self._stem = internal("snowballstemmer", module, stemmer)().stemWord
            self.identity += f", Snowball {metadata.version('snowballstemmer')} {name}"
        self._known: dict[str, tuple[str, ...]] = {}
        self._stems: dict[str, str] = {}
        # A stemmer holds the word that it works on.
        self._lock = threading.Lock()

    def terms(self, text: str) -> list[str]:
        """The words of a text as they are compared: folded and stemmed, in order."""
        return [term for chunk in chunks(text) for term in self.of_chunk(chunk)]

    def of_chunk(self, chunk: str) -> tuple[str, ...]:
        """The words of one of `chunks`."""
        known = self._known.get(chunk)
        if known is None:
            known = tuple(self.stemmed(surface) for surface in surfaces(chunk))
            if recurs(chunk):
                if len(self._known) >= _REMEMBERED:
                    self._known = {}
                self._known[chunk] = known
        return known

    def stemmed(self, surface: str) -> str:
        """The word that stands for a surface form in the index."""
        if self._stem is None:
            return surface
        stem = self._stems.get(surface)
        if stem is None:
            stem = surface
            if all(map(_stemmable, surface)):
                with self._lock:
                    stem = self._stem(surface) or surface
            if len(self._stems) >= _REMEMBERED:
                self._stems = {}
            self._stems[surface] = stem
        return stem


@dataclass(frozen=True)
class Compound:
    """A word, a compound, or a run of a script without blanks. wholes: what stands for all of it;
    parts: its words one after the other; span: where it is; spans: where each part is."""

    wholes: list[str]
    parts: list[str]
    span: tuple[int, int]
    spans: list[tuple[int, int]]


def pieces(text: str) -> Iterator[str]:
    """A long text in pieces that have the same words, so that never all chunks are held."""
    start = 0
    while start + _PIECE < len(text):
        blank = _BLANK.search(text, start + _PIECE)
        if blank is None:
            break
        yield text[start : blank.start()]
        start = blank.start()
    yield text[start:] if start else text


def chunks(text: str) -> list[str]:
    """The runs of a text, after NFKC, that words are made of: without blanks, signs at the ends and
    all signs that join nothing."""
    if text.isascii():
        return _ASCII.findall(text)
    return _UNICODE.findall(unicodedata.normalize("NFKC", text))


def chunk_spans(normal: str) -> list[tuple[int, int]]:
    """Where the `chunks` of a text stand in it after NFKC."""
    return [match.span() for match in (_ASCII if normal.isascii() else _UNICODE).finditer(normal)]


def surfaces(chunk: str) -> list[str]:
    """The words of a chunk as somebody would write them: folded, not stemmed."""
    if chunk.isascii():
        return _compound(chunk)
    found: list[str] = []
    for run in _RUN.findall(chunk.translate(_NOTHING)):
        found.extend(_pairs(run) if _ALONE.match(run) else _compound(run))
    return found


def recurs(chunk: str) -> bool:
    """Whether a chunk is worth remembering: a word, and no sentence without blanks."""
    return len(chunk) <= LONGEST and not _ALONE.match(chunk)


_NOTHING = {ord(character): None for character in _UNSEEN}


def divided(chunk: str) -> list[Compound]:
    """The words of a chunk, which are those of `surfaces`, with where they stand in it."""
    kept = [place for place, character in enumerate(chunk) if character not in _UNSEEN]
    bare = "".join(chunk[place] for place in kept)
    found: list[Compound] = []
    for run in _RUN.finditer(bare):
        made = _paired(run[0]) if _ALONE.match(run[0]) else _divided(run[0])
        if made.parts:
            begin = run.start()
            span, *spans = (
                (kept[begin + start], kept[begin + stop - 1] + 1)
                for start, stop in (made.span, *made.spans)
            )
            found.append(Compound(made.wholes, made.parts, span, spans))
    return found


def _compound(chunk: str) -> list[str]:
    """A word; or a compound without its signs, then its parts."""
    wholes, parts = _wholes_and_parts(chunk, list(_PART.finditer(chunk)))
    return wholes + parts


def _wholes_and_parts(chunk: str, found: list[re.Match[str]]) -> tuple[list[str], list[str]]:
    parts: list[str] = []
    for match in found:
        number, unit = match.groups()
        pieces = [*_humps(number), unit] if number else _humps(match[0])
        parts.extend(map(_folded, pieces))
    if not any(character.isalnum() for part in parts for character in part):
        return [], []
    whole = "".join(parts)
    wholes = [whole[:LONGEST]] if 1 < len(parts) <= _MOST_PARTS else []
    if chunk[-1] in "+#":
        bare = chunk.rstrip("+#")
        wholes.insert(0, whole[:LONGEST] + chunk[len(bare) :])
    return wholes, [part[:LONGEST] for part in parts]


def _divided(chunk: str) -> Compound:
    """As `_compound`, with where each part stands."""
    found = list(_PART.finditer(chunk))
    wholes, parts = _wholes_and_parts(chunk, found)
    spans: list[tuple[int, int]] = []
    for match in found if parts else ():
        start, stop = match.span(1) if match[1] else match.span()
        pieces = _humps(match[1] or match[0])
        if len(pieces) == 1:  # a number may stand without its signs
            spans.append((start, stop))
        else:
            ends = [start + end for end in accumulate(map(len, pieces))]
            spans.extend(pairwise([start, *ends]))
        if match[1]:
            spans.append(match.span(2))
    return Compound(wholes, parts, (0, len(chunk)), spans)


def _paired(run: str) -> Compound:
    """As `_pairs`, with where each pair stands."""
    pairs, letters = _pairs(run), [match.span() for match in _WITH_MARKS.finditer(run)]
    spans = [(one[0], other[1]) for one, other in pairwise(letters)] or letters
    return Compound([], pairs, (0, len(run)), spans)


def _humps(part: str) -> list[str]:
    """`CamelCase` in its parts; a number without signs between thousands."""
    if _THOUSANDS.fullmatch(part):
        return [part.replace(",", "")]
    if part.islower() or part.isupper() or part[1:].islower() or part[:-1].isupper():
        return [part]
    pieces, start = [], 0
    for i in range(1, len(part)):
        before, here, after = part[i - 1], part[i], part[i + 1 : i + 2]
        if here.isupper() and (before.islower() or (before.isalnum() and after.islower())):
            pieces.append(part[start:i])
            start = i
    return [*pieces, part[start:]]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text.casefold())


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of letters with their marks; one alone is itself."""
    letters = _WITH_MARKS.findall(_folded(run))
    return list(map(add, letters, letters[1:])) if len(letters) > 1 else letters


def _stemmable(character: str) -> bool:
    """Letters and their marks, of scripts that write words apart."""
    return not _ALONE.match(character) and not (
        character.isdecimal() or character.isdigit() or character in "+#.,"
    )
