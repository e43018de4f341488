"""An approximate version of an index on its way: its coarse quantizer is fitted, its recall
measured before the manifest is published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moee_index.fusion import Standardizer
from moee_index.index.approximate.coarse import CoarseQuantizer
from moee_index.index.approximate.measure import measured
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.approximation import Approximation
from moee_index.index.store.layout import coarse_name
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.rows import RowNumbers, RowReader
from moee_index.types import Notify, Pair, Progress

DEFAULT_RECALL = 0.95
# Recall is measured again when the index has grown by this share.
_GROWN = 0.1


def fit_coarse(
    directory: Path,
    segments: Sequence[tuple[RowReader, RowNumbers | None]],
    standardizer: Standardizer,
    dims: Pair[int],
    revision: int,
    recall: float,
    report: Progress,
) -> tuple[CoarseQuantizer, Approximation]:
    """Fit a coarse quantizer on the rows that count of some segments and write it; what the
    manifest says of it, nothing measured yet. Raises IndexDamagedError, StorageError."""
    coarse = CoarseQuantizer.fit(segments, standardizer, dims, report)
    coarse.write(directory / coarse_name(revision))
    return coarse, Approximation(coarse=revision, lists=coarse.lists, wanted=recall)


def with_recall(
    directory: Path, manifest: Manifest, report: Progress, notify: Notify, *, anew: bool = False
) -> Manifest:
    """A version that is not published yet, with its recall where that is to be measured: in an
    approximate index that is new, has grown by a tenth, or has other segments (`anew`). What it
    promises is told, and where that is less than was asked for."""
    approximation = manifest.approximation
    if approximation is None or not manifest.segments:
        return manifest
    grown = manifest.rows > approximation.rows * (1 + _GROWN)
    if not (anew or grown):
        return manifest
    with (
        contextlib.closing(Snapshot(directory, manifest)) as snapshot,
        contextlib.ExitStack() as up,
    ):
        searchers = [
            up.enter_context(contextlib.closing(segment.searcher(snapshot.standardizer, None)))
            for segment in snapshot.segments
        ]
        now = measured(snapshot, searchers, approximation, report)
    notify(_told(now, directory))
    return replace(manifest, approximation=now)


def _told(approximation: Approximation, directory: Path) -> str:
    rung = approximation.rung()
    if rung is None:
        if not approximation.queries:
            return "recall 1: every row is looked at, for there are few"
        return (
            f"recall 1: every row is looked at, for half of the lists do not hold "
            f"{approximation.wanted:.0%} of the best; --recall asks for less"
        )
    told = (
        f"recall@10 at least {approximation.recall:.3f} (asked for {approximation.wanted:g}), by "
        f"{approximation.queries} queries of the index's own: a query reads {rung.reach.lists} of "
        f"{approximation.lists} lists and scores {rung.reach.depth} candidates of each segment "
        f"({rung.alone.lists} and {rung.alone.depth} by one part alone)"
    )
    if approximation.recall < approximation.wanted:
        told += (
            f"; that is less than was asked for: moee-index reindex {directory} --index-type "
            "approx fits the index again to what it holds now"
        )
    return told
