"""A corpus divided by the ids of its documents, on disk: read once, written bucket by bucket.

A bucket holds a range of the hashes of ids, a shard some buckets that follow one another: so how
many shards there are can be decided once all documents have been counted. A document that comes
twice meets itself in its bucket, and so do documents of which one is named as a passage of the
other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.atomic import storage_errors
from moee_index.errors import IndexDamagedError
from moee_index.index.store.documents import PreparedDocument
from moee_index.index.store.passage_names import named_passage
from moee_index.index.store.reading import reading
from moee_index.index.store.workers_folder import spool_name
from moee_index.types import Document

# Documents of a shard: a machine that is lost costs at most one, a process's memory grows with it,
# and each is a segment to search; so there are larger ones where there would be very many.
SHARD_DOCUMENTS, LARGE_SHARD = 100_000, 500_000
MANY_SHARDS = 256
_BUCKETS = 1024
# Characters that wait to be written: a bucket's file is opened for many documents at a time.
_BUFFERED = 1 << 24
_FIELDS = ("id", "text", "metadata", "source", "made_id", "untyped")


def bucket_of(identifier: str, buckets: int) -> int:
    """Which of so many buckets a document belongs to, the same on every machine and in every
    version. Numbers of passages at the end of an id do not count."""
    while (passage := named_passage(identifier)) is not None:
        identifier = passage[0]
    digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * buckets >> 64


def choose_buckets(workers: int) -> int:
    """Several for each shard of some hundred million documents, so that shards are alike."""
    return max(_BUCKETS, 1 << math.ceil(math.log2(8 * workers)))


def choose_shards(documents: int, workers: int, buckets: int) -> int:
    """One for each worker, or where documents are many, the fewest that are small enough and
    share out evenly."""
    needed = math.ceil(documents / SHARD_DOCUMENTS)
    if needed > MANY_SHARDS:
        needed = max(MANY_SHARDS, math.ceil(documents / LARGE_SHARD))
    return min(max(1, math.ceil(needed / workers)) * workers, buckets)


@dataclass(frozen=True)
class Shard:
    """Some buckets that follow one another. digest: of its documents, in their order."""

    number: int
    first: int
    end: int
    documents: int
    digest: str


class Spool:
    """The files of one reading of a corpus, which replace those of an earlier one. A context
    manager. Raises StorageError."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self._folder = folder
        self._waiting: list[list[str]] = [[] for _ in range(buckets)]
        self._digests = [hashlib.sha256() for _ in range(buckets)]
        self._counts = [0] * buckets
        self._buffered = 0
        with storage_errors(folder):
            for path in folder.glob("spool-*.jsonl"):
                path.unlink()

    @property
    def documents(self) -> int:
        return sum(self._counts)

    def add(self, prepared: PreparedDocument) -> None:
        document = prepared.document
        bucket = bucket_of(document.id, len(self._waiting))
        self._digests[bucket].update(_identity(prepared))
        fields = {name: getattr(document, name) for name in _FIELDS}
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        self._waiting[bucket].append(line)
        self._counts[bucket] += 1
        self._buffered += len(line)
        if self._buffered >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        for bucket, lines in enumerate(self._waiting):
            if lines:
                path = self._folder / spool_name(bucket)
                with storage_errors(path), path.open("ab") as file:
                    file.write("".join(lines).encode())
                lines.clear()
        self._buffered = 0

    def finish(self, shards: int) -> list[Shard]:
        """Write what waits. Returns the shards that hold any document, in their order."""
        self._flush()
        buckets = len(self._counts)
        found = []
        for number in range(shards):
            first, end = number * buckets // shards, (number + 1) * buckets // shards
            digest = hashlib.sha256()
            for each in self._digests[first:end]:
                digest.update(each.digest())
            count = sum(self._counts[first:end])
            if count:
                found.append(Shard(number, first, end, count, digest.hexdigest()))
        return found


def _identity(prepared: PreparedDocument) -> bytes:
    """What makes a document another one: not where it came from, nor the order of its metadata."""
    read = prepared.document
    metadata = json.loads(prepared.metadata)
    identity = [read.id, read.title, read.text, metadata, prepared.numbers is not None]
    return json.dumps(identity, sort_keys=True).encode()


def read_spool(folder: Path, buckets: Sequence[int]) -> Iterator[Document]:
    """The documents of some buckets, in the order in which they were read within each.

    Raises IndexDamagedError, StorageError.
    """
    for bucket in buckets:
        path = folder / spool_name(bucket)
        if not path.exists():
            continue
        with reading(path), path.open("rb") as file:
            for line in file:
                yield _document(json.loads(line), path)


def _document(fields: dict[str, Any], path: Path) -> Document:
    try:
        return Document(**fields)
    except TypeError as error:
        raise IndexDamagedError(
            f"{path} holds no documents ({error}); start the same command again"
        ) from error
