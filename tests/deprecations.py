"""Finds calls of ours that a library deprecates, though the warning is laid at another's door.

A warning names the place `stacklevel` frames up, which behind a decorator or a module's call is the
library itself, so filters by module (pyproject.toml) miss it. Here the frames between are skipped.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

KINDS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)

# Modules whose frames stand between a caller and what it calls.
_BETWEEN = ("torch.nn.modules.module", "torch.utils._contextlib", "contextlib", "functools")


def watch(report: Callable[[str], None]) -> Callable[[], None]:
    """Report deprecation warnings of our own calls; returns what ends the watch."""
    original = warnings.warn

    def warn(
        message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **named: Any
    ) -> None:
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        if issubclass(kind, KINDS) and (caller := our_call(sys._getframe(1))) is not None:
            place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            report(f"{place}: {kind.__name__}: {message}")
        original(message, category, stacklevel + 1, *more, **named)

    warnings.warn = warn

    def end() -> None:
        warnings.warn = original

    return end


def our_call(warning: FrameType) -> FrameType | None:
    """The frame of this package that called what warns; None where another library did.

    warning: the frame that warns, which is the deprecated function or a decorator of it.
    """
    frame = warning.f_back
    while frame is not None and _between(frame):
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__", "").partition(".")[0] != "moee_index":
        return None
    return frame


def _between(frame: FrameType) -> bool:
    """Whether a frame is a decorator's, or of what calls a module's forward."""
    name = frame.f_globals.get("__name__", "")
    decorates = "<locals>" in frame.f_code.co_qualname and not name.startswith("moee_index")
    return decorates or name in _BETWEEN
