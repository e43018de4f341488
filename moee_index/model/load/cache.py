"""4-bit forms of large models, kept so that the second start takes seconds.

`MOEE_INDEX_CACHE` names the directory (default: the platform's cache directory). An entry is a
directory named after the source's fingerprint: a 4-bit checkpoint. Entries appear whole or not at
all, and are checked to the byte when they are opened: a damaged one is removed and made anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moee_index.errors import ModelError, StorageError
from moee_index.model.arch.four_bit import turns
from moee_index.model.checkpoint.faults import UnreadableError
from moee_index.model.checkpoint.find import Checkpoint, open_checkpoint
from moee_index.model.load.four_bit_checkpoint import publish_four_bit
from moee_index.model.load.weight_file import WEIGHTS_FILE, Draft, Specs, check_digest
from moee_index.model.precision import Storage
from moee_index.types import Notify

# What earlier versions kept beside an entry for queries, and nothing reads any more.
_OUTDATED = "-packed"

_NO_PLACE = "there is no home directory for a cache; set MOEE_INDEX_CACHE to a directory for it"


class Cache:
    """One cache directory. `tell` gets a line for what is kept, damaged, or cannot be kept.

    Where there is no place for one, or it cannot be used, that is told once and nothing is kept.
    """

    def __init__(self, tell: Notify, directory: Path | None = None) -> None:
        self._directory = directory
        self._tell = tell
        self._told_unusable = False

    @property
    def directory(self) -> Path:
        """Raises StorageError where there is no place for a cache."""
        return self._directory or cache_directory()

    def four_bit(
        self, checkpoint: Checkpoint, storage: Storage, *, turned: bool = False
    ) -> Checkpoint | None:
        """The intact 4-bit checkpoint made from this one, or None. turned: whether its matrices
        must be turned (`four_bit.turns`)."""
        try:
            entry = self._entry(checkpoint, storage)
            self._remove_outdated(entry)
            if not entry.is_dir():
                return None
        except (StorageError, OSError) as error:
            self._tell_unusable(error)
            return None
        try:
            cached = open_checkpoint(entry, name=checkpoint.name, revision=checkpoint.revision)
            record = cached.quantization or {}
            check_digest(entry / WEIGHTS_FILE, record.get("bytes"), record.get("digest"))
            if turned and not turns(cached):
                raise ModelError(f"{entry} is from an earlier version")
            return cached
        except (UnreadableError, OSError) as error:
            self._tell_unusable(error)
        except ModelError as error:
            self._remove_damaged(entry, error)
        return None

    def draft(self, checkpoint: Checkpoint, storage: Storage, specs: Specs) -> Draft | None:
        """A draft of an entry to fill; None, told, where there is no room for it."""
        if self._told_unusable:
            return None
        try:
            return Draft(self._entry(checkpoint, storage), specs)
        except StorageError as error:
            self._tell_unusable(error)
            return None

    def _tell_unusable(self, error: Exception) -> None:
        if not self._told_unusable:
            self._told_unusable = True
            self._tell(f"the 4-bit form is not kept: {error}")

    def publish(self, draft: Draft, checkpoint: Checkpoint, storage: Storage) -> None:
        """Make a filled draft an entry; where that fails the model runs all the same."""
        try:
            publish_four_bit(
                draft, checkpoint, double_quant=storage.double_quant, turned=turns(checkpoint)
            )
        except StorageError as error:
            if not draft.directory.is_dir():  # else another process was faster
                self._tell(f"the 4-bit form is not kept: {error}")
            return
        size = sum(file.stat().st_size for file in draft.directory.iterdir())
        self._tell(
            f"the 4-bit form is kept in {draft.directory} ({size / 1e9:.2f} GB), so that the "
            "next start is fast; --no-cache keeps nothing, info --prune-cache removes it"
        )

    def entries(self) -> list[tuple[str, int]]:
        """(name, bytes) of each entry, leftovers of interrupted writes included.

        Raises StorageError where there is no cache, or it cannot be read.
        """
        directory = self.directory
        try:
            if not directory.is_dir():
                return []
            return [
                (entry.name, _size(entry))
                for entry in sorted(directory.iterdir())
                if "-nf4" in entry.name and entry.is_dir()
            ]
        except OSError as error:
            raise StorageError(
                f"the cache {directory} cannot be read ({error.strerror}); set MOEE_INDEX_CACHE to "
                "another directory"
            ) from error

    def prune(self) -> int:
        """Remove all entries. Returns the bytes freed. Raises StorageError."""
        freed = 0
        for name, size in self.entries():
            try:
                shutil.rmtree(self.directory / name)
            except OSError as error:
                raise StorageError(
                    f"{self.directory / name} cannot be removed: {error.strerror}; "
                    "remove it by hand"
                ) from error
            freed += size
        return freed

    def _entry(self, checkpoint: Checkpoint, storage: Storage) -> Path:
        kind = "-nf4-double" if storage.double_quant else "-nf4"
        return self.directory / (checkpoint.fingerprint[:32] + kind)

    def _remove_outdated(self, entry: Path) -> None:
        outdated = entry.with_name(entry.name + _OUTDATED)
        if outdated.is_dir():
            self._tell(f"{outdated} was kept by an earlier version and is removed")
            shutil.rmtree(outdated, ignore_errors=True)

    def _remove_damaged(self, entry: Path, error: Exception) -> None:
        self._tell(f"a damaged cache entry is made anew: {error}")
        shutil.rmtree(entry, ignore_errors=True)


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())


def cache_directory() -> Path:
    """`MOEE_INDEX_CACHE`, else the platform's cache directory. Raises StorageError where neither
    says a place, as for a user without a home directory."""
    from platformdirs import user_cache_path

    said = os.environ.get("MOEE_INDEX_CACHE")
    try:
        directory = Path(said).expanduser() if said else user_cache_path("moee-index")
    except RuntimeError as error:
        raise StorageError(_NO_PLACE) from error
    if directory.parts[:1] == ("~",):  # what older releases of platformdirs return
        raise StorageError(_NO_PLACE)
    return directory
