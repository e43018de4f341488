"""Which documents a query's conditions leave: those that hold a word or a phrase in any passage, or
do not.

Words are looked up in the postings. Documents that hold all words of a phrase are candidates; that
the words follow one another in the title or in the text is checked on what is stored, of as few
documents as an answer needs. Words are compared as everywhere in the index: folded, and stemmed
where it has a language; a compound is found written together, with signs, or in parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from moee_index.index.lexical.syntax import Condition
from moee_index.index.lexical.words import Words, chunks, divided, pieces
from moee_index.index.segment import Mask, OpenSegment
from moee_index.index.store.document_reader import StoredDocument
from moee_index.types import blocks

Numbers = npt.NDArray[np.int64]
# Documents whose texts are held together.
_AT_A_TIME = 256


@dataclass(frozen=True)
class _Run:
    """A word of a phrase or text: what stands for all of it, and its parts one after another."""

    wholes: tuple[str, ...]
    parts: tuple[str, ...]


class Phrase:
    """Words one after another, to be found in texts."""

    def __init__(self, words: Words, text: str) -> None:
        self._words = words
        self.runs = [self._asked(chunk, run) for chunk in chunks(text) for run in self._runs(chunk)]
        self._edges: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        node = 0
        for run in self.runs:
            stop = node + max(len(run.parts), 1)
            for whole in run.wholes:
                self._edges[node].append((whole, stop))
            for place, part in enumerate(run.parts):
                self._edges[node + place].append((part, node + place + 1))
            node = stop
        self._end = node
        self._labels = {label for edges in self._edges.values() for label, _ in edges}

    @staticmethod
    def _asked(chunk: str, run: _Run) -> _Run:
        """As it is looked for: `C++` is no `C`."""
        return _Run(run.wholes[:1], ()) if chunk[-1] in "+#" and run.wholes else run

    def within(self, text: str) -> bool:
        """Whether a text holds the words one after another."""
        # Place in the text → how far the phrase has come there.
        reached: dict[int, set[int]] = {}
        place = 0
        for chunk in chain.from_iterable(map(chunks, pieces(text))):
            terms = self._words.of_chunk(chunk)
            if self._labels.isdisjoint(terms):
                reached = {}
                continue
            for run in [_Run((), terms)] if len(terms) == 1 else self._runs(chunk):
                for number, part in enumerate(run.parts):
                    come = reached.pop(place, set()) | {0}
                    steps = [(part, place + 1)]
                    if number == 0:
                        steps += [(whole, place + len(run.parts)) for whole in run.wholes]
                    for label, target in steps:
                        if label in self._labels and self._advance(come, label, reached, target):
                            return True
                    place += 1
        return False

    def _advance(
        self, come: set[int], label: str, reached: dict[int, set[int]], target: int
    ) -> bool:
        """Go on from where the phrase has come to; whether that is its end."""
        following = {to for at in come for one, to in self._edges[at] if one == label}
        if following:
            reached.setdefault(target, set()).update(following)
        return self._end in following

    def _runs(self, chunk: str) -> Iterator[_Run]:
        for run in divided(chunk):
            yield _Run(self._terms(run.wholes), self._terms(run.parts))

    def _terms(self, surfaces: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(self._words.stemmed, surfaces))


class _Looked:
    """One condition over the documents of all segments. candidates: for each segment bool
    [documents], which hold its words; phrase: to be checked on the text, None where the postings
    say all."""

    def __init__(self, condition: Condition, words: Words, segments: Sequence[OpenSegment]) -> None:
        self.without = condition.without
        phrase = Phrase(words, condition.text)
        runs = phrase.runs
        if len(runs) == 1 and not condition.phrase and runs[0].wholes:
            # A compound is one word.
            runs = [_Run(runs[0].wholes[:1], ())]
        self.candidates = [_candidates(segment, runs) for segment in segments]
        single = len(runs) == 1 and len(runs[0].wholes) + len(runs[0].parts) == 1
        self.phrase = None if single else phrase

    def mask(self, segment: int) -> Mask:
        """The documents that the postings leave."""
        candidates = self.candidates[segment]
        if not self.without:
            return candidates
        return ~candidates if self.phrase is None else np.ones_like(candidates)

    def holds(self, segment: int, document: StoredDocument) -> bool:
        """Whether a document that `mask` leaves meets it."""
        if self.phrase is None or not self.candidates[segment][document.number]:
            return True
        return self.without != any(map(self.phrase.within, (document.title, document.text)))


def _candidates(segment: OpenSegment, runs: Sequence[_Run]) -> Mask:
    """bool [documents]: which hold all words."""
    found = np.ones(segment.entry.documents, dtype=bool)
    for run in runs:
        parts = np.full(len(found), bool(run.parts))
        for part in run.parts:
            parts &= _holding(segment, part)
        for whole in run.wholes:
            parts |= _holding(segment, whole)
        found &= parts
    return found


def _holding(segment: OpenSegment, term: str) -> Mask:
    """bool [documents]: which hold a word in any passage."""
    rows = np.zeros(segment.entry.rows, dtype=bool)
    span = segment.postings.find(term) if segment.postings is not None else None
    if segment.postings is not None and span is not None:
        rows[segment.postings.rows(span)] = True
    if segment.entry.rows == segment.entry.documents:
        return rows
    held: Mask = np.logical_or.reduceat(rows, segment.fields.firsts)
    return held


class DocumentConditions:
    """The conditions of one query over the documents of an opened index. by_text: whether some are
    to be checked on stored texts."""

    def __init__(
        self, conditions: Sequence[Condition], words: Words, segments: Sequence[OpenSegment]
    ) -> None:
        self._segments = segments
        self._each = [_Looked(condition, words, segments) for condition in conditions]
        self.by_text = any(one.phrase is not None for one in self._each)
        self._known: dict[tuple[int, int], bool] = {}

    def masks(self, masks: Sequence[Mask | None]) -> list[Mask | None]:
        """Masks over rows without what the postings rule out."""
        return [self._masked(number, mask) for number, mask in enumerate(masks)]

    def _masked(self, number: int, mask: Mask | None) -> Mask:
        segment = self._segments[number]
        left = np.ones(segment.entry.documents, dtype=bool)
        for one in self._each:
            left &= one.mask(number)
        if segment.entry.rows != segment.entry.documents:
            left = np.repeat(left, np.diff(segment.fields.firsts, append=segment.entry.rows))
        return left if mask is None else left & mask

    def hold(self, segment: int, document: StoredDocument) -> bool:
        """Whether a document that the masks leave meets all conditions."""
        key = segment, document.number
        known = self._known.get(key)
        if known is None:
            known = all(one.holds(segment, document) for one in self._each)
            self._known[key] = known
        return known

    def of(self, segment: int, numbers: Numbers) -> Numbers:
        """Those of some documents that the masks leave which meet all conditions."""
        if not self.by_text:
            return numbers
        return np.fromiter(self._meeting(segment, numbers), dtype=np.int64)

    def _meeting(self, segment: int, numbers: Numbers) -> Iterator[int]:
        for some in blocks(numbers.tolist(), _AT_A_TIME):
            documents = self._segments[segment].documents.get(some)
            yield from (number for number in some if self.hold(segment, documents[number]))
