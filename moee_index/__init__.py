"""Training-free semantic search with 4-bit Mixture-of-Experts language models.

`Encoder` turns texts into Embeddings (HS and RW), `Index` holds them in two FAISS indexes and
answers queries by the MoEE weighting `sim_HS + α·sim_RW`, `rerank` orders candidate lists.
Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.errors import MoeeIndexError
    from moee_index.index import Index
    from moee_index.readers.corpus import read_corpora
    from moee_index.reranking import rerank
    from moee_index.types import Document, Embeddings, Hit

__version__ = "0.1.0"

__all__ = [
    "Document",
    "Embeddings",
    "Encoder",
    "Hit",
    "Index",
    "MoeeIndexError",
    "read_corpora",
    "rerank",
]

_HOMES = {
    "Document": "moee_index.types",
    "read_corpora": "moee_index.readers.corpus",
    "Embeddings": "moee_index.types",
    "Encoder": "moee_index.encode.encoder",
    "MoeeIndexError": "moee_index.errors",
    "Hit": "moee_index.types",
    "Index": "moee_index.index",
    "rerank": "moee_index.reranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moee_index' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
