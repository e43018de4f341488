"""Whether a restarted build is still the same build: options are compared by name, documents by
id, text and metadata, never by position alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from moee_index.errors import (
    FingerprintMismatchError,
    IndexChangedError,
    MisuseError,
    NotAnIndexError,
)
from moee_index.fusion import choose_standardize
from moee_index.index.lexical.language import NO_LANGUAGE
from moee_index.index.segment import OpenSegment, find_live, open_standardizer
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.documents import PreparedDocument, Stored
from moee_index.index.store.layout import segment_folders
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.workers_folder import begun_by_workers, workers_folder
from moee_index.index.write.windows import Counts, Documents, read_through
from moee_index.types import EncoderSpec, TextEncoder

# What follows from raw rows and can change without embedding anything again.
DERIVED = ("standardize", "index_type", "language")


def language_there(directory: Path) -> str | None:
    """Whose words the index or the interrupted build in a directory stems; None where neither is
    there."""
    try:
        manifest = Manifest.read(directory)
    except NotAnIndexError:
        begun = begun_build(directory)
        return None if begun is None else begun[1].language
    return manifest.language or NO_LANGUAGE


def begun_build(directory: Path) -> tuple[Path, Building] | None:
    """The folder and settings of the newest build that is not finished, if there is one."""
    folders = list(reversed(segment_folders(directory)))
    if begun_by_workers(directory):
        folders.insert(0, workers_folder(directory))
    for folder in folders:
        building = Building.read(folder)
        if building is not None and building.purpose == "build":
            return folder, building
    return None


def option_differences(recorded: Building, requested: Building) -> list[tuple[str, object, object]]:
    """(name, recorded, asked) of everything that differs and decides what an index holds."""
    ours, theirs = requested.spec.identity(), recorded.spec.identity()
    differences = [(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]]
    for name in ("store", "chunk", *DERIVED):
        before, now = getattr(recorded, name), getattr(requested, name)
        if before != now:
            differences.append((name, before, now))
    return differences


def check_resumable(
    directory: Path, recorded: Building, requested: Building, *, changing: bool
) -> None:
    """Raises IndexChangedError where an interrupted run was begun with other options. changing:
    those that follow from raw rows may differ."""
    different = option_differences(recorded, requested)
    if changing:
        different = [difference for difference in different if difference[0] not in DERIVED]
    if different:
        raise IndexChangedError(
            f"the interrupted build in {directory} was begun with "
            f"{told(different, recorded.spec)}; give the same options to resume it, or "
            "--overwrite to start over"
        )


def told(differences: Sequence[tuple[str, object, object]], spec: EncoderSpec) -> str:
    """The differences as text, with both values of each."""
    words = []
    for name, before, now in differences:
        if name == "fingerprint":
            words.append(
                f"another model (recorded {spec.model}, fingerprint {str(before)[:12]}…; now "
                f"{str(now)[:12]}…)"
            )
        elif name == "token_weights":
            words.append(
                f"other token weights (recorded {_short(before)}, now {_short(now)}: of another "
                "corpus, or another table beside the model)"
            )
        else:
            words.append(f"{name.replace('_', '-')} {before!r} (now {now!r})")
    return ", ".join(words)


def _short(checksum: object) -> str:
    return "none" if checksum is None else f"{str(checksum)[:12]}…"


def check_encoder(encoder: object) -> TextEncoder:
    """The encoder that a caller gave. Raises MisuseError for what is none."""
    if not isinstance(getattr(encoder, "spec", None), EncoderSpec):
        raise MisuseError(
            f"an encoder is needed, not {type(encoder).__name__}; make one with Encoder.load"
        )
    return cast(TextEncoder, encoder)


def check_spec(recorded: EncoderSpec, requested: EncoderSpec, directory: Path) -> None:
    """Raises FingerprintMismatchError naming each field that differs, and both values."""
    ours, theirs = requested.identity(), recorded.identity()
    differences = [(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]]
    if differences:
        raise FingerprintMismatchError(
            f"{directory} was built with {told(differences, recorded)}; use the model and options "
            "it was built with, or build another index"
        )


def document_difference(
    stored: StoredDocument | None, prepared: PreparedDocument, position: int = 0
) -> str | None:
    """The first difference between a stored document and a new one, as text; None if they are
    equal. place: of the document, from 0."""
    read = prepared.document
    where = f"{read.source}: " if read.source else ""
    if stored is None:
        return f"{where}document {read.id!r} is new"
    if stored.id != read.id:
        return f"{where}document {position + 1} is {read.id!r}, where {stored.id!r} was before"
    if (stored.title, stored.text) != (read.title, read.text):
        return f"{where}document {read.id!r} has different text"
    # As text: to Python 1, 1.0 and True are the same, to a filter they are not.
    if _as_text(stored.metadata) != _as_text(json.loads(prepared.metadata)):
        return f"{where}document {read.id!r} has different metadata"
    if stored.spells_numbers != (prepared.numbers is not None):
        return f"{where}numbers of document {read.id!r} are read with other types (--csv-types)"
    return None


def _as_text(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True)


def window_difference(
    first: int, stored: Sequence[Stored], documents: Sequence[PreparedDocument]
) -> str | None:
    """The first difference of some consecutive documents from those stored, as text, or None.

    first: place of the first; stored: of a segment in progress, from there on. Either may be
    shorter.
    """
    for offset, prepared in enumerate(documents):
        before = None
        if offset < len(stored):
            identifier, title, text, metadata, spells = stored[offset]
            fields = json.loads(metadata)
            before = StoredDocument(
                0, identifier, title, text, fields, "", 0, prepared.spans, bool(spells)
            )
        difference = document_difference(before, prepared, first + offset)
        if difference is not None:
            return difference
    if len(stored) > len(documents):
        return f"document {stored[len(documents)][0]!r} is missing"
    return None


def compare_finished(
    directory: Path,
    manifest: Manifest,
    requested: Building,
    documents: Documents,
    counts: Counts,
    skip_bad: bool,
) -> None:
    """Raises IndexChangedError unless a finished index is what these options and documents give."""
    hint = (
        "build elsewhere, add what is new with moee-index add, or give --overwrite (the old index "
        "answers until the new is whole)"
    )
    standardize = None if requested.standardize == "auto" else requested.standardize
    which: str = choose_standardize(manifest.rows, standardize)[0]
    if which == open_standardizer(directory, manifest).fitted:
        which = manifest.standardize  # parts in which nothing varies are not standardised
    requested = replace(requested, standardize=which)
    recorded = replace(
        requested,
        spec=manifest.spec,
        standardize=manifest.standardize,
        index_type=manifest.index_type.hs,
        store=manifest.store,
        chunk=manifest.chunk,
        language=manifest.language or NO_LANGUAGE,
    )
    different = option_differences(recorded, requested)
    if different:
        raise IndexChangedError(
            f"{directory} was built with {told(different, manifest.spec)}; {hint}"
        )
    difference = _first_difference(directory, manifest, documents, counts, skip_bad)
    if difference is not None:
        raise IndexChangedError(
            f"the corpus is not the one that {directory} was built from: {difference}; {hint}"
        )


def _first_difference(
    directory: Path, manifest: Manifest, documents: Documents, counts: Counts, skip_bad: bool
) -> str | None:
    with contextlib.ExitStack() as opened:
        segments = [
            opened.enter_context(contextlib.closing(OpenSegment(directory, manifest, entry)))
            for entry in manifest.segments
        ]
        if manifest.shards:
            return _difference_by_id(segments, documents, counts, skip_bad)
        stored = chain.from_iterable(segment.live_documents() for segment in segments)
        # Without --on-bad skip a second document of an id shows as another than is stored.
        for window in read_through(documents, counts, skip_bad=skip_bad, find_duplicates=skip_bad):
            for position, prepared in enumerate(window.documents, window.first_document):
                difference = document_difference(next(stored, None), prepared, position)
                if difference is not None:
                    return difference
        left = next(stored, None)
        return None if left is None else f"document {left.id!r} is missing"


def _difference_by_id(
    segments: Sequence[OpenSegment], documents: Documents, counts: Counts, skip_bad: bool
) -> str | None:
    """As `_first_difference`, where documents are not in the order of their corpus."""
    seen = [np.zeros(segment.entry.documents, dtype=bool) for segment in segments]
    for window in read_through(documents, counts, skip_bad=skip_bad, find_duplicates=skip_bad):
        there = find_live(segments, [prepared.document.id for prepared in window.documents])
        for prepared in window.documents:
            number, stored = there.get(prepared.document.id, (0, None))
            difference = document_difference(stored, prepared)
            if difference is not None or stored is None:
                return difference
            if seen[number][stored.number]:
                return f"{prepared.document.source}: document {stored.id!r} comes twice"
            seen[number][stored.number] = True
    for segment, found in zip(segments, seen, strict=True):
        for document in segment.live_documents():
            if not found[document.number]:
                return f"document {document.id!r} is missing"
    return None
