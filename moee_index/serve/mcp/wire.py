"""stdin and stdout as the wire of a protocol: whatever else this process reads or prints, from
Python or from a library's own code, goes elsewhere.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import BinaryIO

# Lines that are read ahead.
_AHEAD = 16


@dataclass(frozen=True)
class Wire:
    """What the client sends, and what it reads; nobody else has these files."""

    incoming: BinaryIO
    outgoing: BinaryIO

    @classmethod
    def take(cls) -> Wire:
        """Keep the two streams for the protocol; in their places stand the null device and stderr.

        To be called before anything that may print is imported.
        """
        sys.stdout.flush()
        incoming, outgoing = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        return cls(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"))

    def writer(self) -> io.TextIOWrapper:
        """For text, one message a line."""
        return io.TextIOWrapper(self.outgoing, encoding="utf-8", newline="\n")

    async def lines(self) -> AsyncIterator[str]:
        """What is sent, until the client ends. It can be left at any time, though the thread that
        reads may wait for ever."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(_AHEAD)

        def put(line: str | None) -> None:
            asyncio.run_coroutine_threadsafe(queue.put(line), loop).result()

        def read() -> None:
            try:
                for line in self.incoming:
                    put(line.decode("utf-8", "replace"))
                put(None)
            except (RuntimeError, CancelledError):
                return  # the loop has ended

        threading.Thread(target=read, name="stdin", daemon=True).start()
        while (line := await queue.get()) is not None:
            yield line
