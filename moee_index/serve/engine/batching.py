"""Which texts go through the model together: a fair share of every waiting request, longest texts
first, as many as a token budget holds.

Numbers alone: what the texts are and who waits for them is left to model_thread.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol


class Waiting(Protocol):
    """A request's texts that no batch has taken yet: their positions, longest first."""

    @property
    def left(self) -> deque[int]: ...

    def length(self, position: int) -> int:
        """Tokens of a text."""


def take_batch(waiting: Sequence[Waiting], budget: int) -> list[tuple[int, int]]:
    """Positions of texts as (request, position): of each request in its order at most its share of
    the budget but one text at least, then what fits besides. Never empty where anything waits.
    """
    taken: list[tuple[int, int]] = []
    used = 0
    for share in (max(1, budget // max(1, len(waiting))), budget):
        for number, request in enumerate(waiting):
            first, own = True, 0
            while request.left:
                length = request.length(request.left[0])
                over = own + length > share and not (first and share < budget)
                if taken and (used + length > budget or over):
                    break
                taken.append((number, request.left.popleft()))
                used, own, first = used + length, own + length, False
    return taken
