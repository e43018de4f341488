"""Lines typed at a prompt, remembered between runs where the library for that is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from moee_index.types import Notify

if TYPE_CHECKING:
    from types import ModuleType

_LINES = 1000


@contextmanager
def kept_history(path: Path | None, tell: Notify) -> Iterator[None]:
    """Lines that `input` reads until the block ends can be edited, and those of earlier runs found
    again. What people search for is theirs: nobody else may read the file.

    path: None where there is no place for one. That it cannot be used is told; nothing is kept
    then.
    """
    try:
        import readline
    except ImportError:  # Windows, some small builds of Python: lines are read as they come
        yield
        return
    readline.set_history_length(_LINES)
    usable = path is not None and _read(readline, path, tell)
    before = readline.get_current_history_length()
    try:
        yield
    finally:
        if usable:
            # Appended, so that two prompts at a time keep the lines of both.
            with suppress(OSError):
                added = readline.get_current_history_length() - before
                readline.append_history_file(added, str(path))


def _read(readline: ModuleType, path: Path, tell: Notify) -> bool:
    """Read the lines of earlier runs; whether others can be kept."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        readline.read_history_file(str(path))
    except OSError as error:
        tell(f"{path}: {error.strerror or error}; lines of this prompt are not remembered")
        return False
    return True


def history_path() -> Path | None:
    """Where the platform keeps such files of a user; None for a user without a home directory."""
    from platformdirs import user_state_path

    try:
        directory = user_state_path("moee-index")
    except RuntimeError:
        return None
    # What older releases of platformdirs return.
    return None if directory.parts[:1] == ("~",) else directory / "queries"
