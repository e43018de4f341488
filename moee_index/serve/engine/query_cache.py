"""The vectors of the last queries: whoever turns a page or moves a slider asks the same again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moee_index.types import Embeddings

# Entries, each of some kilobytes.
_MOST = 2048

Key = tuple[str, bytes]


class QueryCache:
    """Raw rows by model and text; used by one thread, that of the event loop. counted: told how
    many texts were found, and how many were not."""

    def __init__(self, counted: Callable[[int, int], None], most: int = _MOST) -> None:
        self._rows: OrderedDict[Key, Embeddings] = OrderedDict()
        self._counted = counted
        self._most = most

    def look_up(self, model: str, texts: Sequence[str]) -> Lookup:
        """What is known of some texts, and which are not, each once."""
        known: dict[str, Embeddings] = {}
        missing: list[str] = []
        for text in dict.fromkeys(texts):
            key = _key(model, text)
            if key in self._rows:
                self._rows.move_to_end(key)
                known[text] = self._rows[key]
            else:
                missing.append(text)
        self._counted(len(known), len(missing))
        return Lookup(texts, known, missing)

    def keep(self, model: str, found: Lookup, rows: Embeddings) -> None:
        """Take the rows of texts that were missing."""
        for place, text in enumerate(found.missing):
            row = slice(place, place + 1)
            found.known[text] = Embeddings(rows.hs[row].copy(), rows.rw[row].copy())
            self._rows[_key(model, text)] = found.known[text]
        while len(self._rows) > self._most:
            self._rows.popitem(last=False)


@dataclass(frozen=True)
class Lookup:
    """Texts of a request, the rows that are known of them, and the texts that have none."""

    texts: Sequence[str]
    known: dict[str, Embeddings]
    missing: list[str]

    def rows(self) -> Embeddings:
        """Rows of all texts, in their order."""
        found = [self.known[text] for text in self.texts]
        return Embeddings(
            np.concatenate([row.hs for row in found]), np.concatenate([row.rw for row in found])
        )


def _key(model: str, text: str) -> Key:
    return model, hashlib.sha256(text.encode("utf-8")).digest()
