"""Calls in flight end before what they use is closed, whichever thread closes it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class InUse:
    """Counts the calls that use something. From `close` on no call begins; what is used is closed
    at once where no call is in flight, else by the last of them as it ends. So nothing waits, and
    nothing is closed under a call.

    close: closes what is used, called once; closed: the error for calls that come too late.
    """

    def __init__(self, close: Callable[[], None], closed: Callable[[], Exception]) -> None:
        self._close = close
        self._closed = closed
        self._lock = threading.Lock()
        self._calls = 0
        self._closing = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For the time of one call. Raises the error for what is closed."""
        with self._lock:
            if self._closing:
                raise self._closed()
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                last = self._is_last()
            if last:
                self._close()

    def _is_last(self) -> bool:
        """Whether nothing is in flight and nothing begins any more."""
        return self._closing and not self._calls

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """The items of a generator, held for one step at a time: one that is left in the middle
        keeps nothing open."""
        with self.held():
            pass

        def steps() -> Iterator[T]:
            while True:
                with self.held():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

        return steps()

    def close(self) -> None:
        """Let no call begin any more; again: nothing."""
        with self._lock:
            now = not self._closing and not self._calls
            self._closing = True
        if now:
            self._close()
