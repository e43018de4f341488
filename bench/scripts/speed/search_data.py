"""Random unit vectors as a segment's files, and what opens them: the data of `search.py`.

Nothing is standardised, so that the
raw rows are the unit vectors themselves; documents with metadata stand apart, because a filter
does not look at vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from moee_index.fusion import Standardizer, UnitVectors, unit_vectors
from moee_index.index.search.pair import PairSearcher
from moee_index.index.segment import check_content, readers_for
from moee_index.index.store.checksums import CheckedFile, piece_crcs, row_crcs
from moee_index.index.store.document_reader import DocumentReader
from moee_index.index.store.documents import DocumentStore, PreparedDocument
from moee_index.index.store.faiss_files import FLAT, open_part, write_flat
from moee_index.index.store.fields import FieldReader, write_fields
from moee_index.index.store.layout import DOCUMENTS, FIELDS
from moee_index.index.store.manifest import FileEntry, file_entry
from moee_index.index.store.rows import RowReader, RowWriter, StoredRows
from moee_index.types import PARTS, Document, Embeddings, FloatArray, Pair, Part

OLMOE = Pair(2048, 1024)
# Raw rows of more documents are kept in float16 like the codes, so that a million fits a disk; a
# search reads few of them.
_SINGLE = 100_000
_BLOCK = 2000
_DONE = "made.json"


def units(rows: int, dim: int, seed: int) -> Iterator[FloatArray]:
    """Blocks of random unit vectors, float32 [m, dim], each block from a seed of its own."""
    for start in range(0, rows, _BLOCK):
        rng = np.random.default_rng([seed, dim, start])
        block = rng.standard_normal((min(_BLOCK, rows - start), dim), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield block


def queries(count: int, dims: Pair[int]) -> UnitVectors:
    """Random unit vectors that no document has."""
    parts = [next(units(count, dim, seed=9)) for _, dim in dims]
    return unit_vectors(Embeddings(*parts), Standardizer())


def make(folder: Path, rows: int, dims: Pair[int]) -> None:
    """Write raw rows, FAISS files and checksums of so many documents, unless they are there."""
    store = "float32" if rows <= _SINGLE else "float16"
    asked = {"rows": rows, "dims": dict(dims), "store": store}
    done = folder / _DONE
    if done.is_file() and json.loads(done.read_text())["asked"] == asked:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with RowWriter(folder, store, dims) as writer:
        made = (units(rows, dim, seed=1) for _, dim in dims)
        for number, made_of in enumerate(zip(*made, strict=True)):
            stored: Pair[Any] = Pair(*made_of)
            if store == "float16":
                stored = stored.map(_half)
            crcs = np.stack([row_crcs(block) for _, block in stored], axis=1)
            writer.append(number * _BLOCK, StoredRows(stored, crcs))
        writer.finish(rows)
    raw = RowReader(folder, store, rows, dims)
    errors: dict[str, float] = {}
    for part, rows_of in raw.parts:
        path = folder / f"{part}.faiss"
        blocks = (_single(rows_of[i : i + _BLOCK]) for i in range(0, rows, _BLOCK))
        errors[part] = write_flat(path, blocks, rows, dims[part])
        (folder / f"{part}.crc").write_bytes(piece_crcs(path).tobytes())
    done.write_text(json.dumps({"asked": asked, "errors": errors}))


def _half(block: FloatArray) -> np.ndarray[Any, Any]:
    """float16; torch converts many times as fast as numpy."""
    import torch

    converted: np.ndarray[Any, Any] = torch.from_numpy(block).half().numpy()
    return converted


def _single(block: np.ndarray[Any, Any]) -> FloatArray:
    import torch

    converted: FloatArray = torch.from_numpy(np.array(block)).float().numpy()
    return converted


def open_searcher(folder: Path) -> PairSearcher:
    """What `Index` makes of a segment, of the files that `make` left."""
    made = json.loads((folder / _DONE).read_text())
    rows, dims = made["asked"]["rows"], Pair(**made["asked"]["dims"])

    def checked(part: Part) -> CheckedFile:
        crcs = np.frombuffer((folder / f"{part}.crc").read_bytes(), dtype="<u4")
        return CheckedFile(folder / f"{part}.faiss", crcs)

    return PairSearcher(
        PARTS.map(lambda part: open_part(folder / f"{part}.faiss", FLAT, rows, dims[part])),
        PARTS.map(checked),
        Pair(FLAT, FLAT),
        RowReader(folder, made["asked"]["store"], rows, dims),
        np.ones((rows, 2), dtype=np.float32),
        Standardizer(),
        Pair(**made["errors"]),
    )


def make_documents(folder: Path, count: int) -> None:
    """A segment's documents with metadata of five fields and texts of some hundred characters."""
    if (folder / FIELDS).is_file():
        return
    (folder / DOCUMENTS).unlink(missing_ok=True)
    rng = np.random.default_rng(4)
    topics = ["physics", "history", "cooking", "law", "music", "chess", "botany"]
    words = " ".join(topics * 8)
    with DocumentStore(folder / DOCUMENTS) as store:
        for start in range(0, count, _BLOCK):
            prepared = []
            for number in range(start, min(start + _BLOCK, count)):
                metadata = {
                    "lang": ["en", "de", "fr", "es"][number % 4],
                    "year": 1990 + number % 37,
                    "source": f"source-{rng.integers(50)}",
                    "title": f"Document {number} on {topics[number % 7]}",
                    "tags": [topics[i] for i in rng.integers(0, 7, 2)],
                    "number": number,
                }
                text = words[: 200 + int(rng.integers(200))]
                document = Document(f"d{number}", text, metadata)
                prepared.append(PreparedDocument.of(document).split([(0, len(text))]))
            store.append(start, prepared, [False] * len(prepared))
        store.finish()
    write_fields(folder, lambda *_: None)


def open_documents(folder: Path) -> DocumentReader:
    return DocumentReader(folder / DOCUMENTS, checking(folder / DOCUMENTS))


def open_fields(folder: Path) -> FieldReader:
    return FieldReader(folder / FIELDS, checking(folder / FIELDS), readers_for(_SINGLE))


def checking(path: Path) -> Callable[[BufferedReader], None]:
    """As a segment does it: the whole file is checked when a filter is first evaluated."""
    expected = path.with_suffix(".sha256")
    if not expected.is_file():
        expected.write_text(file_entry(path).sha256)
    listed = FileEntry(path.stat().st_size, expected.read_text())
    return lambda file: check_content(file, path, listed)
