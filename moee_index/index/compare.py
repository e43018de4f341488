"""Whether a build that is started again is still the same build: options by name, documents by
id, text and metadata, never by position alone.

Knows what was recorded and what is asked. Refuses to know how either came about.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moee_index.embeddings import EncoderSpec
from moee_index.errors import FingerprintMismatchError, IndexChangedError
from moee_index.fusion import choose_standardize
from moee_index.index.documents import DocumentReader, PreparedDocument
from moee_index.index.intake import Counts, Documents, Rejects, windows
from moee_index.index.manifest import DOCUMENTS, Building, Manifest

Stored = tuple[str, str, str, str, int | None]
# What follows from raw rows and can change without embedding anything again.
DERIVED = ("standardize", "index_type")
_AT_A_TIME = 1024


def option_differences(recorded: Building, asked: Building) -> list[tuple[str, object, object]]:
    """(name, recorded, asked) of everything that differs and decides what an index holds."""
    ours, theirs = asked.spec.identity(), recorded.spec.identity()
    found = [(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]]
    for name in ("store", *DERIVED):
        before, now = getattr(recorded, name), getattr(asked, name)
        if before != now:
            found.append((name, before, now))
    return found


def told(differences: Sequence[tuple[str, object, object]], spec: EncoderSpec) -> str:
    """The differences in words, both values of each."""
    words = []
    for name, before, now in differences:
        if name == "fingerprint":
            words.append(
                f"another model (recorded {spec.model}, fingerprint {str(before)[:12]}…; now "
                f"{str(now)[:12]}…)"
            )
        else:
            words.append(f"{name.replace('_', '-')} {before!r} (now {now!r})")
    return ", ".join(words)


def check_spec(recorded: EncoderSpec, given: EncoderSpec, directory: Path) -> None:
    """Raises FingerprintMismatchError naming each field that differs, and both values."""
    ours, theirs = given.identity(), recorded.identity()
    found = [(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]]
    if found:
        raise FingerprintMismatchError(
            f"{directory} was built with {told(found, recorded)}; use the model and options it "
            "was built with, or build another index"
        )


def document_difference(
    first: int, stored: Sequence[Stored], documents: Sequence[PreparedDocument]
) -> str | None:
    """The first of some consecutive documents that is not as stored, in words; None if all are.

    stored: rows from `first` on; documents: what was read in their place. Either may be shorter.
    """
    for offset, prepared in enumerate(documents):
        read = prepared.document
        where = f"{read.source}: " if read.source else ""
        if offset >= len(stored):
            return f"{where}document {read.id!r} is new"
        identifier, title, text, metadata, _ = stored[offset]
        if identifier != read.id:
            place = first + offset + 1
            return f"{where}document {place} is {read.id!r}, where {identifier!r} was before"
        if (title, text) != (read.title, read.text):
            return f"{where}the text of document {read.id!r} is another"
        if metadata != prepared.metadata and json.loads(metadata) != json.loads(prepared.metadata):
            return f"{where}the metadata of document {read.id!r} are others"
    if len(stored) > len(documents):
        return f"document {stored[len(documents)][0]!r} is missing"
    return None


def compare_finished(
    directory: Path,
    manifest: Manifest,
    asked: Building,
    documents: Documents,
    counts: Counts,
    skip_bad: bool,
) -> None:
    """Raises IndexChangedError unless a finished index is what these options and documents give."""
    hint = "build elsewhere, or give --overwrite (the old index answers until the new is whole)"
    given = None if asked.standardize == "auto" else asked.standardize
    asked = replace(asked, standardize=choose_standardize(manifest.documents, given)[0])
    recorded = replace(
        asked,
        spec=manifest.spec,
        standardize=manifest.standardize,
        index_type=manifest.index_type["hs"],
        store=manifest.store,
    )
    different = option_differences(recorded, asked)
    if different:
        raise IndexChangedError(
            f"{directory} was built with {told(different, manifest.spec)}; {hint}"
        )
    with contextlib.closing(DocumentReader(manifest.path(directory, DOCUMENTS))) as store:
        difference = _first_difference(store, documents, counts, skip_bad)
    if difference is not None:
        raise IndexChangedError(
            f"the corpus is not the one that {directory} was built from: {difference}; {hint}"
        )


def _first_difference(
    store: DocumentReader, documents: Documents, counts: Counts, skip_bad: bool
) -> str | None:
    end = 0
    rejects = Rejects(None, counts)
    for first, window in windows(
        documents, _AT_A_TIME, store.source_of, rejects, counts, skip_bad=skip_bad
    ):
        difference = document_difference(first, store.stored(first, len(window)), window)
        if difference is not None:
            return difference
        end = first + len(window)
    return document_difference(end, store.stored(end, 1), [])
