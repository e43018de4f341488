"""The postings of one segment as a part of an index: written with it, joined with others', checked.

Which segments there are, and when a version is published, is left to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moee_index.index.lexical.words import Words
from moee_index.index.lexical.write import follows_from, merge_postings, write_postings
from moee_index.index.segment import OpenSegment
from moee_index.index.store.document_reader import DocumentReader
from moee_index.index.store.layout import DOCUMENTS, postings_name
from moee_index.index.store.manifest import Lexical
from moee_index.types import Progress


def write_lexical(folder: Path, language: str, revision: int, report: Progress) -> Lexical:
    """Write the postings of a segment whose documents are all written.

    Raises StorageError, IndexDamagedError.
    """
    words = Words(language)
    # Nothing to compare with yet: what a manifest will say of the file is made later.
    with DocumentReader(folder / DOCUMENTS, lambda file: None) as documents:
        write_postings(folder, documents, words, revision, report)
    return Lexical(revision, words.identity)


def add_lexical(segment: OpenSegment, language: str, revision: int, report: Progress) -> Lexical:
    """Write other postings of a segment. Raises IndexDamagedError rather than read altered
    documents; StorageError."""
    words = Words(language)
    segment.documents.check()
    write_postings(segment.folder, segment.documents, words, revision, report)
    return Lexical(revision, words.identity)


def join_lexical(
    folder: Path, segments: Sequence[OpenSegment], language: str, revision: int, report: Progress
) -> Lexical:
    """Write the postings of a new segment from those of the segments that were joined in it, or
    from its documents where these were split by other rules.

    Raises IndexDamagedError rather than copy what is altered; StorageError.
    """
    identity = Words(language).identity
    sources = [
        (segment.postings, segment.live_rows)
        for segment in segments
        if segment.postings is not None
        and segment.entry.lexical is not None
        and segment.entry.lexical.words == identity
    ]
    if len(sources) < len(segments):
        return write_lexical(folder, language, revision, report)
    merge_postings(folder, sources, revision)
    return Lexical(revision, identity)


def check_lexical(segment: OpenSegment, language: str, report: Progress) -> str | None:
    """What is wrong with a segment's postings; None where they are what its documents give, or were
    made under rules that are not this program's."""
    lexical, words = segment.entry.lexical, Words(language)
    if lexical is None or lexical.words != words.identity:
        return None
    path = segment.folder / postings_name(lexical.revision)
    if follows_from(path, segment.documents, words, report):
        return None
    return f"{path} does not follow from the documents; moee-index reindex --lexical writes it anew"
