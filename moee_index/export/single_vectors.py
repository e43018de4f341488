"""One vector a text, for other programs: what `embed` prints and saves, and an export writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moee_index.fusion import Method, Standardizer, check_search, one_vector, unit_vectors
from moee_index.types import Embeddings, FloatArray, Progress

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.index import Index


def embed_texts(
    texts: Sequence[str],
    encoder: Encoder,
    index: Index | None = None,
    *,
    method: Method = "sum",
    raw: bool = False,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """One vector a text, as `one_vectors`.

    index: the texts are queries of this index, with its standardizer and its default α; without
    one they are documents, nothing is standardised and α is 1 unless given.

    Raises MisuseError for method or alpha out of range.
    """
    weight = check_search(method, alpha, 1, default_alpha=1.0 if index is None else index.alpha)
    embeddings = encoder.encode(texts, query=index is not None, progress=progress)
    standardizer = None if index is None else index.standardizer
    return one_vectors(embeddings, method, raw=raw, alpha=weight, standardizer=standardizer)


def one_vectors(
    embeddings: Embeddings,
    method: Method,
    *,
    raw: bool,
    alpha: float | None,
    standardizer: Standardizer | None,
) -> FloatArray:
    """One vector a text, float32 [n, dims]: cosines of these are the method's scores, for `sum`
    up to a factor (DESIGN, maths 1). raw: HS, RW or both joined as the model gave them."""
    if raw:
        parts = {"hs": (embeddings.hs,), "rw": (embeddings.rw,)}
        return np.concatenate(parts.get(method, (embeddings.hs, embeddings.rw)), axis=1)
    return one_vector(unit_vectors(embeddings, standardizer), method, alpha)
