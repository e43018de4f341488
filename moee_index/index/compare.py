"""Whether a build that is started again is still the same build: options by name, documents by
id, text and metadata, never by position alone.

Knows what was recorded and what is asked. Refuses to know how either came about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from moee_index.embeddings import EncoderSpec
from moee_index.errors import FingerprintMismatchError
from moee_index.index.documents import PreparedDocument
from moee_index.index.manifest import Building

Stored = tuple[str, str, str, str, int | None]
# What follows from raw rows and can change without embedding anything again.
DERIVED = ("standardize", "index_type")


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
