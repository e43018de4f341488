"""Where the model of an index is, if it is not where the index was built with it.

Only directories are looked for; whether one holds the same model is found out where it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moee_index.types import EncoderSpec


def located(spec: EncoderSpec, directory: Path) -> EncoderSpec:
    """The spec with its model's directory as found from the index at `directory`: a relative path
    may start there, and both may have been moved together. Unchanged where nothing is found, or
    the model is one of the hub."""
    if spec.revision is not None or _is_directory(Path(spec.path)):
        return spec
    path, around = Path(spec.path), directory.absolute().parent
    beside = () if path.is_absolute() else (directory / path, around / path)
    for candidate in (*beside, around / path.name):
        if path.name and _is_directory(candidate):
            return replace(spec, path=str(candidate.absolute()))
    return spec


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not to be looked into: told where it is opened
        return False
