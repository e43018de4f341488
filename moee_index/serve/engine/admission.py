"""How much work is let in: the queue, counted in tokens, by one rule for every route."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moee_index.errors import counted
from moee_index.serve.errors import OverloadedError, TooLargeError

# OpenAI's client waits no longer than that before it tries again.
MOST_WAIT = 120


class Admission:
    """Tokens of the requests that are in, from their tokens' being counted to their answer.

    Used by one thread, that of the event loop. rate: gives tokens a second, as measured.
    """

    def __init__(self, limit: int, rate: Callable[[], float | None]) -> None:
        self.limit = limit
        self.tokens = 0
        self._rate = rate

    @contextmanager
    def admitted(self, tokens: int) -> Iterator[None]:
        """Room for a request's tokens while a block runs.

        Raises TooLargeError for a request that never fits, OverloadedError for one that does not
        fit now.
        """
        if tokens > self.limit:
            raise TooLargeError(
                f"the request has {counted(tokens, 'token')}, more than the {self.limit} that this "
                "server takes at once; send it in parts"
            )
        if self.tokens + tokens > self.limit:
            wait = self.wait()
            raise OverloadedError(
                f"the queue is full ({counted(self.tokens, 'token')} of {self.limit}); try again "
                f"in {counted(wait, 'second')}",
                wait,
            )
        self.tokens += tokens
        try:
            yield
        finally:
            self.tokens -= tokens

    def wait(self) -> int:
        """Seconds until the queue is likely to be half empty, 1 to MOST_WAIT."""
        rate = self._rate()
        seconds = 1.0 if not rate else self.tokens / 2 / rate
        return max(1, min(MOST_WAIT, math.ceil(seconds)))
