"""Versions of an index, the newest opened and new ones put in place by one writer: everything is
written before the manifest, and leftovers go.

What a version holds is left to others.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from moee_index.atomic import storage_errors, sync_directory
from moee_index.errors import IndexDamagedError, MoeeIndexError, StorageError
from moee_index.index.store.layout import (
    BUILDING,
    WEIGHT_TABLES,
    segment_folders,
    shared_files,
)
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.workers_folder import holds_work, remove_workers
from moee_index.types import Notify

T = TypeVar("T")
# A writer may put newer versions in place while one is being opened.
_ATTEMPTS = 50


def program() -> str:
    return metadata.version("moee-index")


def newest(directory: Path, opened: Callable[[Manifest], T]) -> T:
    """What is opened of the newest version. Raises NotAnIndexError, and what `opened` raises of a
    version that no writer has replaced meanwhile."""
    manifest = Manifest.read(directory)
    for _ in range(_ATTEMPTS - 1):
        try:
            return opened(manifest)
        except IndexDamagedError:
            now = Manifest.read(directory)
            if now.revision == manifest.revision:
                raise
            manifest = now
    return opened(manifest)


def publish(
    directory: Path, manifest: Manifest, new: Sequence[Path], notify: Notify | None = None
) -> None:
    """Make a version the one that is opened, then remove what only older ones needed.

    new: folders with files that this version brings. Raises StorageError; the version before is
    then still whole.
    """
    for folder in new:
        with storage_errors(folder):
            sync_directory(folder)
    with storage_errors(directory):
        sync_directory(directory)
    manifest.write(directory)
    try:
        for folder in new:
            with storage_errors(folder):
                (folder / BUILDING).unlink(missing_ok=True)
        tidy(directory, manifest)
    except StorageError as error:
        if notify is not None:
            notify(f"the index is whole, but an older version could not be removed: {error}")


def tidy(directory: Path, manifest: Manifest | None) -> None:
    """Remove what no version needs: files of older ones, and what a crash left.

    An unfinished segment (one with building.json) stays, because it can be gone on with, and so
    does what several processes have finished. Raises StorageError.
    """
    listed = set(manifest.files) if manifest else set()
    folders = {name.partition("/")[0] for name in listed if "/" in name}
    with storage_errors(directory):
        for path in (*shared_files(directory), *directory.glob(WEIGHT_TABLES)):
            if path.name not in listed:
                path.unlink(missing_ok=True)
        for folder in segment_folders(directory):
            if folder.name in folders:
                for path in folder.iterdir():
                    if f"{folder.name}/{path.name}" not in listed:
                        path.unlink(missing_ok=True)
            elif not (folder / BUILDING).exists():
                remove_segment(folder)
        for path in directory.glob("*.tmp"):
            path.unlink(missing_ok=True)
    if not holds_work(directory, folders):
        remove_workers(directory)


def remove_segment(folder: Path) -> None:
    """Remove a segment, its building.json last, so that a crash leaves it recognisable."""
    with storage_errors(folder), contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != BUILDING:
                path.unlink()
        shutil.rmtree(folder)


@contextlib.contextmanager
def given_up(directory: Path) -> Iterator[None]:
    """If the block fails, remove what it has written; the version that is there stays as it is."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(MoeeIndexError, OSError):
            # The block may have put a version in place before it failed.
            tidy(directory, Manifest.read(directory))
        raise
