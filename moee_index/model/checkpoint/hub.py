"""A checkpoint of the hub: the folder of its files, fetched or from the hub's cache.

What the folder holds is left to `find`.
"""

from __future__ import annotations

import os
from pathlib import Path

from moee_index.errors import ModelError, first_line

_FILES = [
    "config.json",
    "moee_index.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.model",
]
_FOLDERS = ["*/*"]  # where repositories keep other forms of the same weights

# Variables that say where the hub's cache is.
_PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def find_folder(repository: str, revision: str | None, offline: bool) -> Path:
    """The folder with the files of a model of the hub, named after its revision.

    Raises ModelError where there is no such model, or it cannot be fetched.
    """
    from huggingface_hub import constants, is_offline_mode, snapshot_download

    offline = offline or is_offline_mode() or bool(os.environ.get("HF_HUB_OFFLINE"))
    cache = Path(constants.HF_HUB_CACHE)
    asked = any(name in os.environ for name in _PLACES)
    if cache.parts[:1] == ("~",) or not (cache.is_absolute() or asked):
        # Without a home directory, or by an XDG variable that is no whole path, the hub's client
        # would make its cache wherever this program was started.
        raise ModelError(
            f"there is no directory {repository!r}, and no place for the hub's cache: there is no "
            "home directory, or XDG_CACHE_HOME is not a whole path; set HF_HOME to a directory"
        )
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_FILES,
                ignore_patterns=_FOLDERS,
                local_files_only=offline,
            )
        )
    except Exception as error:  # the hub client raises its own, httpx's and OS errors
        raise ModelError(_why(repository, revision, offline, cache, error)) from error


def _why(
    repository: str, revision: str | None, offline: bool, cache: Path, error: Exception
) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return (
            f"{repository!r} is neither a directory nor a hub id (owner/name); give --model either"
        )
    if isinstance(error, GatedRepoError):
        return (
            f"the hub's model {repository} is gated: accept its terms on "
            f"https://huggingface.co/{repository}, log in with `hf auth login`, and start again"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the hub's model {repository} has no revision {revision!r}; check --revision"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no directory {repository!r}, and the hub shows no model of that name: check the "
            "name; if the model is private, log in with `hf auth login`"
        )
    at = f" at revision {revision!r}" if revision is not None else ""
    failure = (
        f"there is no directory {repository!r}, and no model of that name{at} could be fetched"
    )
    if isinstance(error, LocalEntryNotFoundError) and offline:
        if known := _revisions(cache / f"models--{repository.replace('/', '--')}"):
            return (
                f"offline, and the hub's cache has {repository}, but not{at or ' its newest'}; "
                f"known there: {', '.join(known)}"
            )
        return f"{failure}: offline, and it is not in the hub's cache"
    return f"{failure}: {first_line(error)}"


def _revisions(folder: Path) -> list[str]:
    """The revisions of a model in the hub's cache by the names that --revision takes."""
    try:
        named = [file.name for file in (folder / "refs").iterdir()]
        return sorted(named) or sorted(file.name for file in (folder / "snapshots").iterdir())
    except OSError:
        return []
