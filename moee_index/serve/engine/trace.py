"""What happened to one request, for its line of the log and the metrics: seconds by stage, tokens,
and what was asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from moee_index.text import cut

# Texts of a request that a log holds, and characters of each.
_NOTED = 20
_SHOWN = 500


@dataclass
class Trace:
    """Filled in as a request goes through the stages: read, tokenize, queue, forward, scan, write.

    about: further fields of the log's line (index, revision, model, …); never a text. asked: the
    texts, where the log may hold them; else None.
    """

    id: str
    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    texts: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    asked: list[str] | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time spent in a block, added to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def note(self, texts: Iterable[str]) -> None:
        """Keep texts for the log, if it may hold them."""
        if self.asked is not None:
            self.asked += [cut(text, _SHOWN) for text in islice(texts, _NOTED)]

    def add(self, name: str, seconds: float) -> None:
        self.stages[name] = self.stages.get(name, 0.0) + seconds
