"""The index that is used when none is named."""

from __future__ import annotations

from pathlib import Path

from moee_index.errors import NotAnIndexError
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest


def default_index(directory: str | Path = "indexes") -> tuple[Path, str]:
    """The index to use when none is named, and why: the only finished one, or the newest.

    Raises NotAnIndexError if there is none.
    """
    directory = Path(directory)
    finished: list[tuple[str, Path]] = []
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if (path / MANIFEST).is_file():
                finished.append((Manifest.read(path).created, path))
    if not finished:
        raise NotAnIndexError(
            f"there is no index in {directory}; make one with moee-index build, or name one with "
            "--index"
        )
    if len(finished) == 1:
        return finished[0][1], f"the only index in {directory}"
    created, path = max(finished)
    return path, f"the newest of {len(finished)} in {directory}, built {created}"
