"""The index directory: built, opened, searched, verified. Knows no model: it takes Embeddings.

The names are loaded when they are asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moee_index.index.build import BuildReport, build_index
    from moee_index.index.reader import Hits, Index, default_index
    from moee_index.index.verify import VerifyReport, verify_index

_HOMES = {
    "BuildReport": "build",
    "Hits": "reader",
    "Index": "reader",
    "VerifyReport": "verify",
    "build_index": "build",
    "default_index": "reader",
    "verify_index": "verify",
}
__all__ = [
    "BuildReport",
    "Hits",
    "Index",
    "VerifyReport",
    "build_index",
    "default_index",
    "verify_index",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
