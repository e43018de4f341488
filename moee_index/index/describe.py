"""What an index is and holds, for `info`.

Changes nothing: it works in a read-only directory and beside a writer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from moee_index.errors import IndexDamagedError, StorageError
from moee_index.index.approximate.cost import early_exit, scan_cost
from moee_index.index.drift import measure_drift
from moee_index.index.store.layout import (
    BUILDING,
    DOCUMENTS,
    FIELDS,
    LEXICAL,
    ROW_CHECKS,
    STORES,
    raw_name,
    segment_folders,
)
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.reading import known, sqlite_uri
from moee_index.index.store.workers_folder import begun_by_workers, workers_folder
from moee_index.index.workers.finished import Finished
from moee_index.types import PARTS

if TYPE_CHECKING:
    from moee_index.index.snapshot import Snapshot

_RAW = {ROW_CHECKS, *(raw_name(part, store) for _, part in PARTS for store in STORES)}
_DERIVED = ("hs-", "rw-", "norms-", "candidates-", "coarse-", "leading-")
# Seconds to wait for a writer that holds its database at this moment.
_PATIENCE = 1.0


def describe(index: Snapshot) -> dict[str, Any]:
    """The fields of `info INDEX --json` (INTERFACE). Everything about the version that is open but
    `unfinished`, which is about the directory now. Raises IndexDamagedError.

    bytes: of all files of this version; disk: the same by kind, and by document (None if there
    are none). fields: metadata field → kinds of its values, sorted; None where there are thousands.
    counts: what builds and adds have read. lexical: language, words of the rows that count, bytes
    of the postings, rules that made them; None in an index without. lexical_weight: of words in a
    search that does not say. drift: see drift.py; unfinished: see `unfinished`; approximate, scan:
    see `_ways`.
    """
    manifest, spec = index.manifest, index.spec
    model = {name: getattr(spec, name) for name in ("path", "revision", "fingerprint", "bits")}
    fields = index.fields
    kinds = None if fields is None else {name: sorted(fields[name]) for name in sorted(fields)}
    deleted = {
        "documents": sum(segment.deleted_documents for segment in manifest.segments),
        "rows": sum(segment.deleted_rows for segment in manifest.segments),
    }
    return {
        "documents": manifest.documents,
        "dims": dict(spec.dims),
        "model": {"name": spec.model, **model, "bytes": manifest.model_bytes},
        **spec.options(without=("bits", "double_quant")),
        "standardize": manifest.standardize,
        "index_type": dict(manifest.index_type),
        "alpha": manifest.alpha,
        "bytes": manifest.size,
        "created": manifest.created,
        "version": manifest.program,
        "changed": manifest.changed,
        "revision": manifest.revision,
        "rows": manifest.rows,
        "chunk": manifest.chunk,
        "segments": len(manifest.segments),
        "deleted": deleted,
        "store": manifest.store,
        "fields": kinds,
        "disk": disk(manifest),
        "counts": manifest.counts,
        "lexical": _lexical(index),
        "lexical_weight": manifest.lexical_weight,
        "drift": measure_drift(index).as_json(),
        "unfinished": unfinished(index.home, manifest),
        **_ways(manifest),
    }


def _ways(manifest: Manifest) -> dict[str, Any]:
    """approximate: how an approximate index is searched, and its recall; early_exit: how little of
    an exact one a query reads; scan: what a search of a large exact one costs. Only what there is
    to say."""
    approximation = manifest.approximation
    ways = {
        "approximate": None if approximation is None else approximation.as_json(),
        "early_exit": early_exit(manifest),
        "scan": scan_cost(manifest),
    }
    return {name: way for name, way in ways.items() if way is not None}


def disk(manifest: Manifest) -> dict[str, float | None]:
    """Bytes by kind, which add up to `Manifest.size`, and bytes a document that counts.

    documents: texts and metadata; raw: rows as the model gave them, and their checksums; codes:
    FAISS files, their checksums and the rows' lengths; words: postings; other: standardizer, marks
    of deleted rows.
    """
    sizes = {"documents": 0, "raw": 0, "codes": 0, "words": 0, "other": 0}
    for path, entry in manifest.files.items():
        sizes[_kind(PurePosixPath(path).name)] += entry.size
    each = manifest.size / manifest.documents if manifest.documents else None
    return {**sizes, "per_document": each}


def _kind(name: str) -> str:
    if name in (DOCUMENTS, FIELDS):
        return "documents"
    if name in _RAW:
        return "raw"
    if name.startswith(f"{LEXICAL}-"):
        return "words"
    return "codes" if name.startswith(_DERIVED) else "other"


def _lexical(index: Snapshot) -> dict[str, Any] | None:
    if index.manifest.language is None:
        return None
    made_by = sorted({entry.lexical.words for entry in index.manifest.segments if entry.lexical})
    return {
        "language": index.manifest.language,
        "words": index.statistics.words,
        "bytes": disk(index.manifest)["words"],
        "made_by": made_by,
    }


def unfinished(directory: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What a build or an add that has not ended has left in an index directory; None without one.

    None too where the directory may not be listed. Whether it runs at this moment or was
    interrupted cannot be seen without disturbing it. purpose: build or add; documents: of those
    whose vectors are all on disk; both None where the files do not say. bytes: of its files.
    """
    listed = {entry.name for entry in manifest.segments}
    if begun_by_workers(directory):
        return _unfinished_by_workers(directory)
    try:
        folders = segment_folders(directory)
    except StorageError:
        return None
    for folder in reversed(folders):
        if folder.name in listed or not known((folder / BUILDING).exists):
            continue
        purpose = None
        with contextlib.suppress(IndexDamagedError, StorageError):
            building = Building.read(folder)
            purpose = building.purpose if building is not None else None
        return {
            "purpose": purpose,
            "documents": _embedded(folder / DOCUMENTS),
            "bytes": _size(folder),
        }
    return None


def _unfinished_by_workers(directory: Path) -> dict[str, Any]:
    """As `unfinished`, of several processes."""
    folder, purpose, documents = workers_folder(directory), None, 0
    with contextlib.suppress(IndexDamagedError, StorageError):
        building = Building.read(folder)
        purpose = building.purpose if building is not None else None
    with contextlib.suppress(OSError):
        for done in folder.glob("done-*"):
            finished = Finished.read(done)
            documents += 0 if finished is None else finished.documents
        for path in folder.glob(f"shard-*/segment-*/{DOCUMENTS}"):
            documents += _embedded(path) or 0
    size = _size(folder)
    with contextlib.suppress(OSError):
        size += sum(_size(path) for path in folder.glob("**/*") if path.is_dir())
    return {"purpose": purpose, "documents": documents, "bytes": size}


def _embedded(path: Path) -> int | None:
    """Documents whose windows are done; None where the database cannot be read as it is, as
    after a crash during a transaction, which the next writer undoes."""
    try:
        connection = sqlite3.connect(sqlite_uri(path), uri=True, timeout=_PATIENCE)
        with contextlib.closing(connection):
            sql = "SELECT coalesce(sum(documents), 0) FROM windows WHERE done"
            return int(connection.execute(sql).fetchone()[0])
    except sqlite3.Error:
        return None


def _size(folder: Path) -> int:
    """Bytes of a folder's files. A writer may remove one meanwhile, or all; one that may not be
    looked at is left out."""
    total = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total
