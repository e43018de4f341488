"""Which rows of each segment of an opened index a filter leaves, those of the last filters kept."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moee_index.index.filters import Filter
from moee_index.index.search.request import as_filter

if TYPE_CHECKING:
    from moee_index.index.segment import OpenSegment

Mask = npt.NDArray[np.bool_]
# A version of an index never changes, so masks stay true.
_KEPT = 16


class Selector:
    """Turns filters into masks over the segments of one opened index."""

    def __init__(self, segments: Sequence[OpenSegment]) -> None:
        self._segments = segments
        self._known: dict[str, set[str]] | None = None
        self._looked = False
        self._masks: OrderedDict[Filter, list[Mask | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def fields(self) -> dict[str, set[str]] | None:
        """Metadata field → kinds of the values that documents have in it; None where there are too
        many to know them all."""
        if not self._looked:
            kinds: defaultdict[str, set[str]] = defaultdict(set)
            each = [segment.fields.known() for segment in self._segments]
            for name, kind in chain.from_iterable(fields or () for fields in each):
                kinds[name].add(kind)
            self._known = None if None in each else dict(kinds)
            self._looked = True
        return self._known

    def masks(self, condition: str | Filter | None) -> list[Mask | None]:
        """For each segment bool [rows]: the rows to search; None where all are.

        Raises FilterError naming the position.
        """
        parsed = as_filter(condition)
        if parsed is None:
            return [segment.live for segment in self._segments]
        with self._lock:
            if parsed in self._masks:
                self._masks.move_to_end(parsed)
                return self._masks[parsed]
        masks = self._matching(parsed)
        with self._lock:
            self._masks[parsed] = masks
            if len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        return masks

    def _matching(self, parsed: Filter) -> list[Mask | None]:
        # An index that has become empty knows no fields, and every filter finds nothing.
        if self._segments and self.fields is not None and not parsed.checked:
            parsed.check(self.fields)
        masks: list[Mask | None] = []
        for segment in self._segments:
            mask = segment.matching(parsed)
            masks.append(mask if segment.live is None else mask & segment.live)
        return masks
