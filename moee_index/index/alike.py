"""Whether several opened indexes can be searched as one, and what in them would be taken for the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moee_index.errors import FingerprintMismatchError, MisuseError
from moee_index.fusion import Standardizer
from moee_index.index.index import Index
from moee_index.index.search.request import SearchRequest
from moee_index.index.segment import find_live
from moee_index.index.snapshot import Snapshot
from moee_index.types import EncoderSpec, blocks

_AT_A_TIME = 1024


def check_distinct(indexes: Sequence[Index]) -> None:
    places = {index.directory.resolve(): index for index in indexes}
    if len(places) < len(indexes):
        twice = next(index for index in indexes if places[index.directory.resolve()] is not index)
        raise MisuseError(f"the index {twice.directory} is named twice; name it once")


def check_alike(first: Index, other: Index) -> None:
    """Raises FingerprintMismatchError naming what decides a vector and differs."""
    if differs := identity_differences(first.spec, other.spec):
        raise FingerprintMismatchError(
            f"{first.directory} and {other.directory} were built with {differs}; search them one "
            "by one"
        )


def identity_differences(first: EncoderSpec, other: EncoderSpec) -> str:
    """What decides a vector and differs between two encoders; empty where nothing does."""
    ours, theirs = first.identity(), other.identity()
    different = [name for name in ours if ours[name] != theirs[name]]
    if not different:
        return ""
    if "fingerprint" in different:
        return (
            f"different models ({first.model}, fingerprint {first.fingerprint[:12]}…; "
            f"{other.model}, fingerprint {other.fingerprint[:12]}…)"
        )
    pairs = (f"{name} {ours[name]!r} and {theirs[name]!r}" for name in different)
    return "different options: " + ", ".join(pairs).replace("_", "-")


def equal(one: Standardizer, other: Standardizer) -> bool:
    """Whether two standardizers are the same to the byte."""
    ours, theirs = one.to_arrays(), other.to_arrays()
    return ours.keys() == theirs.keys() and all(
        ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )


def shared_names(snapshot: Snapshot, other: Snapshot, request: SearchRequest) -> Iterator[str]:
    """Ids of documents of an index that a hit of another may have too, where a request finds both:
    its documents, and its passages where they are hits of their own."""
    masks, others = snapshot.masks(request.filter), other.masks(request.filter)
    for segment, mask in zip(snapshot.segments, masks, strict=True):
        named = segment.documents.ids_like("*")
        names = (name for name, first in named if mask is None or mask[first])
        for some in blocks(names, _AT_A_TIME):
            for name, row in _rows_named(other, some, request.passages):
                number = int(np.searchsorted(other.begins, row, side="right")) - 1
                allowed = others[number]
                if allowed is None or allowed[row - other.begins[number]]:
                    yield name


def _rows_named(
    snapshot: Snapshot, names: Sequence[str], passages: bool
) -> Iterator[tuple[str, int]]:
    """(name, first row of the index) of those documents that are there, or passages."""
    if passages:
        for name, found in snapshot.passages(names).items():
            yield name, found[0].row
        return
    for name, (segment, document) in find_live(snapshot.segments, names).items():
        yield name, int(snapshot.begins[segment]) + document.first
