"""What an exact scan reads and costs, told where that is much."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from moee_index.index.store.faiss_files import FLAT
from moee_index.index.store.layout import LEADING
from moee_index.index.store.manifest import Manifest, Segment

# Bytes of codes from which on it is told.
_MUCH = 2_000_000_000
# Bytes a second that a scan takes in where codes are in memory, and from a disk: what two cores of
# a server, and an NVMe disk, do at least.
FROM_MEMORY = 20e9
FROM_DISK = 2e9


def early_exit(manifest: Manifest) -> dict[str, Any] | None:
    """Of an index whose segments, or some, have leading components: the share of the codes that a
    query is found to read by them, and their bytes; None of another."""
    files = [
        entry.size
        for name, entry in manifest.files.items()
        if PurePosixPath(name).name.startswith(f"{LEADING}-")
    ]
    if not files:
        return None
    rows = sum(segment.rows for segment in manifest.segments)
    read = sum(_rows_read(segment) for segment in manifest.segments) / rows
    return {"read": read, "bytes": sum(files)}


def told_exit(found: dict[str, Any]) -> str:
    """As text."""
    return (
        f"a query reads as much as {found['read']:.0%} of the codes: leading components "
        f"({found['bytes'] / 1e6:.0f} MB) rule out most rows, and answers stay exact"
    )


def scan_cost(manifest: Manifest) -> dict[str, Any] | None:
    """Bytes that a query of a flat index reads, and the seconds that takes; None where it is
    little, or the index is of another type."""
    row_bytes = 2 * (manifest.spec.hs_dim + manifest.spec.rw_dim)
    codes = sum(segment.rows for segment in manifest.segments) * row_bytes
    if manifest.index_type.hs != FLAT or codes < _MUCH:
        return None
    size = round(sum(_rows_read(segment) for segment in manifest.segments) * row_bytes)
    return {
        "bytes": size,
        "seconds_from_memory": size / FROM_MEMORY,
        "seconds_from_disk": size / FROM_DISK,
    }


def _rows_read(segment: Segment) -> float:
    """How many rows' codes a scan of a segment reads as much as."""
    return segment.rows * (1.0 if segment.leading is None else segment.leading.read)


def told_cost(cost: dict[str, Any], directory: Path) -> str:
    """As text, and what costs less."""
    return (
        f"a query reads {cost['bytes'] / 1e9:.1f} GB of codes: about "
        f"{cost['seconds_from_memory']:.1f} s from memory, {cost['seconds_from_disk']:.0f} s from "
        f"a disk; moee-index reindex {directory} --index-type approx makes it a fraction"
    )
