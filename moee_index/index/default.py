"""The index that is used where none is named."""

from __future__ import annotations

from pathlib import Path

from moee_index.errors import NotAnIndexError
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest


def default_index(directory: str | Path = "indexes") -> tuple[Path, str]:
    """The index to use when none is named, and why: the only finished one, or the newest.

    Raises NotAnIndexError when there is none.
    """
    directory = Path(directory)
    found: list[tuple[str, Path]] = []
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if (path / MANIFEST).is_file():
                found.append((Manifest.read(path).created, path))
    if not found:
        raise NotAnIndexError(
            f"there is no index in {directory}; make one with moee-index build, or name one with "
            "--index"
        )
    if len(found) == 1:
        return found[0][1], f"the only index in {directory}"
    created, path = max(found)
    return path, f"the newest of {len(found)} in {directory}, built {created}"
