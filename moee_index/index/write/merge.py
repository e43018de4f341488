"""Merge several segments into one, without what was deleted; and when that is worthwhile.

Documents and raw rows are copied as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moee_index.atomic import storage_errors
from moee_index.index.segment import OpenSegment
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.documents import DocumentStore
from moee_index.index.store.fields import write_fields
from moee_index.index.store.layout import DOCUMENTS
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.rows import RowReader, RowWriter
from moee_index.types import Progress, filled

_ROWS_AT_A_TIME = 1024
_CHARACTERS = 16 << 20
# Segments joined at once: fewer would copy rows more often, more would open more files.
_FEW = 4


def merged(
    folder: Path, manifest: Manifest, segments: Sequence[OpenSegment], report: Progress
) -> tuple[RowReader, int]:
    """Write the documents and rows that count of some segments into a new folder, in their order.

    Returns the rows, and the number of documents. Raises IndexDamagedError rather than copy what
    is altered; StorageError.
    """
    dims = manifest.spec.dims
    with storage_errors(folder):
        folder.mkdir()
    total = sum(each.entry.documents - each.entry.deleted_documents for each in segments)
    documents = rows = 0
    with (
        DocumentStore(folder / DOCUMENTS) as store,
        RowWriter(folder, manifest.store, dims) as writer,
    ):
        for segment in segments:
            segment.documents.check()
            for some in _blocks(segment.live_documents()):
                taken = np.concatenate(
                    [np.arange(document.rows.start, document.rows.stop) for document in some]
                )
                store.append(
                    rows,
                    [document.prepared() for document in some],
                    [cut for each in some for cut in segment.documents.truncated(each.rows)],
                )
                writer.append(rows, segment.raw.stored(taken))
                documents, rows = documents + len(some), rows + len(taken)
                report("copying", documents, total)
        writer.finish(rows)
        store.finish()
    write_fields(folder, report)
    return RowReader(folder, manifest.store, rows, dims), documents


def _blocks(documents: Iterator[StoredDocument]) -> Iterator[list[StoredDocument]]:
    """Documents together that have some thousand rows, or some megabytes of texts."""
    return filled(
        documents,
        (lambda document: len(document.spans), _ROWS_AT_A_TIME),
        (lambda document: len(document.text), _CHARACTERS),
    )


def tail_to_merge(sizes: Sequence[int]) -> int | None:
    """Where the longest run of segments at the end that is worth merging begins; None if none is.

    sizes: rows of each segment. A run is worth it from four segments on when none holds over half
    of its rows: so there are never many segments, and a row is copied a number of times that grows
    with the logarithm of what is added after it (as in log-structured merge trees).
    """
    for start in range(len(sizes) - _FEW + 1):
        run = sizes[start:]
        if 2 * max(run) <= sum(run):
            return start
    return None
