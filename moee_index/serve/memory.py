"""The memory of a process that runs for weeks: how much it has, and giving back what is free."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any


def resident_bytes() -> int | None:
    """Resident memory of this process; None where nothing tells (other systems than Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()


def give_back() -> None:
    """Return freed memory to the system, which glibc keeps for later requests and, in every
    thread's own arena, may never use again."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """glibc's malloc_trim; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
