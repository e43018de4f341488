"""What can be changed of a finished index without touching its files: its default α.

Knows the manifest and the writer's lock. Refuses to know how a value was chosen.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moee_index.atomic import WriterLock
from moee_index.fusion import check_alpha
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.revisions import now, program


def check_writable(directory: Path) -> None:
    """Find out now what a later `save_alpha` would find: for work that takes long before it.

    Raises NotAnIndexError, IndexDamagedError, IndexLockedError, StorageError.
    """
    # Read before locking, so that no lock file is left where there is no index.
    Manifest.read(directory)
    with WriterLock(directory):
        pass


def save_alpha(directory: Path, alpha: float) -> None:
    """Make alpha the index's default weight of RW. Atomic: a reader sees the old one or the new.

    Readers that are open keep the value that they opened with.

    Raises MisuseError for an alpha out of range, NotAnIndexError, IndexDamagedError,
    IndexLockedError when another process writes to the index, StorageError.
    """
    weight = check_alpha(alpha)
    Manifest.read(directory)
    with WriterLock(directory):
        # Read again: a writer may have put a newer version in place before the lock was had.
        manifest = Manifest.read(directory)
        replace(
            manifest, alpha=weight, revision=manifest.revision + 1, changed=now(), program=program()
        ).write(directory)
