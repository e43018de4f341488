"""Vectors of a few texts as files or JSON lines, for `embed`.

Knows Embeddings, the maths and three formats; knows no index and no model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moee_index.errors import MisuseError, StorageError
from moee_index.fusion import Method, Standardizer, one_vector, unit_vectors
from moee_index.types import Embeddings, FloatArray


def read_texts(texts: Sequence[str], queries: str | None) -> tuple[list[str], list[str]]:
    """(ids, texts) given on the command line (ids from 1), or read from a file of queries."""
    if queries is None:
        if not texts:
            raise MisuseError("no text; give TEXT, or a file with --queries (- is stdin)")
        return [str(number) for number in range(1, len(texts) + 1)], list(texts)
    from moee_index.readers.corpus import read_queries

    read = list(read_queries(queries))
    if not read:
        raise MisuseError(f"{queries} holds no text to embed")
    return [query.id for query in read], [query.text for query in read]


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


def vector_lines(ids: Sequence[str], texts: Sequence[str], vectors: FloatArray) -> Iterator[str]:
    """JSON lines {"id", "text", "vector"}."""
    for identifier, text, vector in zip(ids, texts, vectors, strict=True):
        yield json.dumps(
            {"id": identifier, "text": text, "vector": vector.tolist()}, ensure_ascii=False
        )


def save_vectors(path: Path, ids: Sequence[str], texts: Sequence[str], vectors: FloatArray) -> None:
    """Write .npy (the matrix), .safetensors (`vectors`, ids as metadata) or .jsonl; the file
    appears whole or not at all. Raises StorageError."""
    try:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("xb") as file:
                if path.suffix == ".npy":
                    np.save(file, vectors, allow_pickle=False)
                elif path.suffix == ".safetensors":
                    from safetensors.numpy import save

                    said = {"ids": json.dumps(list(ids), ensure_ascii=False)}
                    file.write(save({"vectors": vectors}, metadata=said))
                else:
                    for line in vector_lines(ids, texts, vectors):
                        file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:  # safetensors' own writer is not used: bytes are written here
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; free space or take another place"
        ) from error
