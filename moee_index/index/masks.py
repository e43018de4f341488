"""Which rows of the segments an answer may come from: those that count, and fulfil a filter.

Knows masks. Refuses to know vectors and scores.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from itertools import chain

from moee_index.index.filters import Filter
from moee_index.index.segment import Mask, OpenSegment

# Masks of the last filters are kept: a version of an index never changes, so they stay true.
_KEPT = 16


class Selector:
    """Turns filters into masks over the segments of one opened index."""

    def __init__(self, segments: Sequence[OpenSegment]) -> None:
        self._segments = segments
        self._known: dict[str, set[str]] | None = None
        self._looked = False
        self._masks: OrderedDict[str, list[Mask | None]] = OrderedDict()

    @property
    def fields(self) -> dict[str, set[str]] | None:
        """Metadata field → kinds of the values that documents have in it; None where there are too
        many to know them all."""
        if not self._looked:
            found: defaultdict[str, set[str]] = defaultdict(set)
            each = [segment.fields.known() for segment in self._segments]
            for name, kind in chain.from_iterable(fields or () for fields in each):
                found[name].add(kind)
            self._known = None if None in each else dict(found)
            self._looked = True
        return self._known

    def masks(self, condition: str | Filter | None) -> list[Mask | None]:
        """For each segment bool [rows]: the rows to search; None where all are.

        Raises FilterError naming the position.
        """
        if condition is None:
            return [segment.live for segment in self._segments]
        parsed = Filter.parse(condition) if isinstance(condition, str) else condition
        if parsed.text not in self._masks:
            # Of an index that is empty by now no field is known, and every filter finds nothing.
            if self._segments and self.fields is not None:
                parsed.check(self.fields)
            masks: list[Mask | None] = []
            for segment in self._segments:
                mask = segment.matching(parsed)
                masks.append(mask if segment.live is None else mask & segment.live)
            self._masks[parsed.text] = masks
            if len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        self._masks.move_to_end(parsed.text)
        return self._masks[parsed.text]
