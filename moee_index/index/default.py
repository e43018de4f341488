"""The index that is used when none is named."""

from __future__ import annotations

from pathlib import Path

from moee_index.errors import NotAnIndexError, StorageError
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.reading import known, unreadable


def default_index(directory: str | Path = "indexes") -> tuple[Path, str]:
    """The index to use when none is named, and why: the only finished one, or the newest.

    One that may not be read is left out, which the reason says. Raises NotAnIndexError if there is
    none, StorageError where none that is there may be read.
    """
    directory = Path(directory)
    finished: list[tuple[str, Path]] = []
    unread: list[StorageError] = []
    for path in _folders(directory):
        try:
            finished.append((Manifest.read(path).created, path))
        except StorageError as error:
            unread.append(error)
        except NotAnIndexError:
            if known((path / MANIFEST).is_file):
                raise
    if not finished:
        if unread:
            raise unread[0]
        raise NotAnIndexError(
            f"there is no index in {directory}; make one with moee-index build, or name one with "
            "--index"
        )
    left_out = f"; left out: {unread[0]}" if unread else ""
    if len(finished) == 1:
        only = "the only index that can be read" if unread else "the only index"
        return finished[0][1], f"{only} in {directory}{left_out}"
    created, path = max(finished)
    return path, f"the newest of {len(finished)} in {directory}, built {created}{left_out}"


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if known(path.is_dir))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
