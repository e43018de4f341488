"""The index directory: built, changed, opened, searched, verified. It takes Embeddings; no model is
loaded here.

The names are loaded when they are asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moee_index.index.add import AddReport, add_documents
    from moee_index.index.build import BuildReport, build_index
    from moee_index.index.change import (
        ChangeReport,
        compact_index,
        delete_documents,
        delete_matching,
        reindex,
        reindex_lexical,
        save_alpha,
        save_weights,
    )
    from moee_index.index.default import default_index
    from moee_index.index.held import Segments
    from moee_index.index.hits import Hits
    from moee_index.index.index import Index
    from moee_index.index.several import Indexes
    from moee_index.index.verify import VerifyReport, verify_index
    from moee_index.index.workers.start import Workers

_HOMES = {
    "AddReport": "add",
    "BuildReport": "build",
    "ChangeReport": "change",
    "Hits": "hits",
    "Index": "index",
    "Indexes": "several",
    "Segments": "held",
    "VerifyReport": "verify",
    "Workers": "workers.start",
    "add_documents": "add",
    "build_index": "build",
    "compact_index": "change",
    "default_index": "default",
    "delete_documents": "change",
    "delete_matching": "change",
    "reindex": "change",
    "reindex_lexical": "change",
    "save_alpha": "change",
    "save_weights": "change",
    "verify_index": "verify",
}
__all__ = [
    "AddReport",
    "BuildReport",
    "ChangeReport",
    "Hits",
    "Index",
    "Indexes",
    "Segments",
    "VerifyReport",
    "Workers",
    "add_documents",
    "build_index",
    "compact_index",
    "default_index",
    "delete_documents",
    "delete_matching",
    "reindex",
    "reindex_lexical",
    "save_alpha",
    "save_weights",
    "verify_index",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
