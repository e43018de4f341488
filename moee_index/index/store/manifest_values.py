"""Values of a manifest and of the settings of a segment that the rest of the program relies on.

A checksum says that they are what was written, not that what was written makes sense: a length that
is none must be refused here, before room is made for it.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from moee_index.fusion import MAX_ALPHA, STANDARDIZE
from moee_index.index.lexical.language import check_language
from moee_index.index.store.approximation import check_approximation
from moee_index.index.store.layout import SEGMENT, STORES
from moee_index.index.store.stored_types import check_types
from moee_index.types import Chunking, Pair

if TYPE_CHECKING:
    from moee_index.index.store.manifest import Building, Manifest, Segment


def check_manifest(manifest: Manifest) -> None:
    """Raises ValueError or MisuseError naming what no manifest of ours holds."""
    check_types(manifest)
    _check_sizes(manifest.spec.dims, manifest.batch_tokens, manifest.window)
    _check_checksum(manifest.spec.token_weights)
    if manifest.store not in STORES:
        raise ValueError(f"store is {manifest.store!r}")
    if manifest.standardize not in STANDARDIZE:
        raise ValueError(f"standardize is {manifest.standardize!r}")
    if not 0 <= manifest.alpha <= MAX_ALPHA:
        raise ValueError(f"alpha is {manifest.alpha!r}")
    if not 0 <= manifest.lexical_weight <= 1:
        raise ValueError(f"lexical_weight is {manifest.lexical_weight!r}")
    if manifest.chunk is not None:
        Chunking.parse(manifest.chunk)
    if min(manifest.revision, manifest.standardizer, manifest.shards) < 0:
        raise ValueError("a revision or the number of shards is below 0")
    if manifest.language is not None:
        check_language(manifest.language)
    for name, listed in manifest.files.items():
        _check_relative(name)
        if listed.size < 0:
            raise ValueError(f"{name} has {listed.size} bytes")
    for segment in manifest.segments:
        _check_segment(segment)
        if (segment.lexical is None) != (manifest.language is None):
            raise ValueError(f"postings of {segment.name}, language {manifest.language!r}")
        if (segment.candidates is None) != (manifest.approximation is None):
            raise ValueError(f"{segment.name} has candidates in an exact index, or the reverse")
    if manifest.approximation is not None:
        check_approximation(manifest.approximation)
    if len({segment.name for segment in manifest.segments}) < len(manifest.segments):
        raise ValueError("a segment is named twice")


def check_building(building: Building) -> None:
    """As `check_manifest`, for the settings of an unfinished segment."""
    check_types(building)
    _check_checksum(building.spec.token_weights)
    check_language(building.language)
    characters = 1 if building.characters is None else building.characters
    _check_sizes(building.spec.dims, building.batch_tokens, building.window, characters)


def _check_checksum(checksum: str | None) -> None:
    # A file is named after it.
    if checksum is not None and not re.fullmatch("[0-9a-f]{64}", checksum):
        raise ValueError(f"token_weights is {checksum!r}, which is no checksum")


def _check_sizes(dims: Pair[int], *others: int) -> None:
    if min(dims.hs, dims.rw, *others) < 1:
        raise ValueError("a dimension, or a number of tokens or passages, is below 1")


def _check_segment(segment: Segment) -> None:
    if not SEGMENT.fullmatch(segment.name):
        raise ValueError(f"segment {segment.name!r}")
    counts = [segment.documents, segment.rows, segment.deleted_documents, segment.deleted_rows]
    postings = 0 if segment.lexical is None else segment.lexical.revision
    leading = 0 if segment.leading is None else min(segment.leading.revision, segment.leading.read)
    revisions = [segment.derived, segment.deleted or 0, segment.candidates or 0, postings, leading]
    if min(*counts, *revisions) < 0:
        raise ValueError(f"a number of {segment.name} is below 0")
    if (segment.deleted is None) != (segment.deleted_rows == 0):
        raise ValueError(f"{segment.name} has deleted rows but does not name them, or the reverse")
    if (
        segment.deleted_rows > segment.rows
        or segment.deleted_documents > segment.documents
        or segment.documents > segment.rows
        or not segment.rows
    ):
        raise ValueError(f"the counts of {segment.name} contradict each other")
    if segment.codes_error is not None and min(segment.codes_error.hs, segment.codes_error.rw) < 0:
        raise ValueError(f"codes_error is {segment.codes_error!r}")
    flat = segment.index_type == Pair("flat", "flat")
    if flat != (segment.codes_error is not None):
        raise ValueError(f"{segment.name} is {segment.index_type!r} with {segment.codes_error!r}")
    if segment.leading is not None and not flat:
        raise ValueError(f"{segment.name} has leading components but no flat codes")


def _check_relative(name: str) -> None:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts
    if outside or not name.isascii() or not name.isprintable():
        raise ValueError(f"{name!r} is outside the index")
