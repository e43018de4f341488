"""4-bit forms of large models, kept so that the second start takes seconds.

`MOEE_INDEX_CACHE` names the directory (default: the platform's cache directory). An entry is a
directory named after the source's fingerprint: a 4-bit checkpoint, and beside it the same weights
packed for the fast product. Entries appear whole or not at all, and are checked to the byte when
they are opened: a damaged one is removed and made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from moee_index.errors import ModelError, StorageError
from moee_index.model.arch.four_bit import turns
from moee_index.model.checkpoint.find import Checkpoint, open_checkpoint
from moee_index.model.load.four_bit_checkpoint import publish_four_bit
from moee_index.model.load.weight_file import WEIGHTS_FILE, Draft, Specs, check_digest
from moee_index.model.precision import Storage
from moee_index.types import Notify

_RECORD = "packed.json"


class Cache:
    """One cache directory. `tell` gets a line for what is kept, damaged, or cannot be kept."""

    def __init__(self, tell: Notify, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory()
        self._tell = tell

    def four_bit(
        self, checkpoint: Checkpoint, storage: Storage, *, turned: bool = False
    ) -> Checkpoint | None:
        """The intact 4-bit checkpoint made from this one, or None. turned: whether its matrices
        must be turned (`four_bit.turns`)."""
        entry = self._entry(checkpoint, storage)
        if not entry.is_dir():
            return None
        try:
            cached = open_checkpoint(entry, name=checkpoint.name, revision=checkpoint.revision)
            record = cached.quantization or {}
            check_digest(entry / WEIGHTS_FILE, record.get("bytes"), record.get("digest"))
            if turned and not turns(cached):
                raise ModelError(f"{entry} is from an earlier version")
            return cached
        except (ModelError, OSError) as error:
            self._remove_damaged(entry, error)
            return None

    def draft(
        self, checkpoint: Checkpoint, storage: Storage, specs: Specs, *, packed: bool = False
    ) -> Draft | None:
        """A draft of an entry to fill; None, told, where there is no room for it."""
        try:
            return Draft(self._entry(checkpoint, storage, packed), specs)
        except StorageError as error:
            self._tell(f"the {_form(packed)} is not kept: {error}")
            return None

    def publish(
        self, draft: Draft, checkpoint: Checkpoint, storage: Storage, *, packed: bool = False
    ) -> None:
        """Make a filled draft an entry; where that fails the model runs all the same."""
        try:
            if packed:
                draft.publish(_RECORD, draft.checksum())
            else:
                publish_four_bit(
                    draft,
                    checkpoint,
                    double_quant=storage.double_quant,
                    turned=turns(checkpoint),
                )
        except StorageError as error:
            if not draft.directory.is_dir():  # else another process was faster
                self._tell(f"the {_form(packed)} is not kept: {error}")
            return
        size = sum(file.stat().st_size for file in draft.directory.iterdir())
        self._tell(
            f"the {_form(packed)} is kept in {draft.directory} ({size / 1e9:.2f} GB), so that the "
            "next start is fast; --no-cache keeps nothing, info --prune-cache removes it"
        )

    def packed(self, checkpoint: Checkpoint, storage: Storage) -> Path | None:
        """The weight file of the sound packed entry of this checkpoint, or None."""
        entry = self._entry(checkpoint, storage, packed=True)
        file = entry / WEIGHTS_FILE
        if not entry.is_dir():
            return None
        try:
            said = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
            check_digest(file, said["bytes"], said["digest"])
            return file
        except (ModelError, OSError, ValueError, KeyError, TypeError) as error:
            self._remove_damaged(entry, error)
            return None

    def entries(self) -> list[tuple[str, int]]:
        """(name, bytes) of each entry, leftovers of interrupted writes included."""
        if not self.directory.is_dir():
            return []
        return [
            (entry.name, sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()))
            for entry in sorted(self.directory.iterdir())
            if entry.is_dir() and "-nf4" in entry.name
        ]

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

    def _entry(self, checkpoint: Checkpoint, storage: Storage, packed: bool = False) -> Path:
        kind = "-nf4-double" if storage.double_quant else "-nf4"
        return self.directory / (checkpoint.fingerprint[:32] + kind + ("-packed" if packed else ""))

    def _remove_damaged(self, entry: Path, error: Exception) -> None:
        self._tell(f"a damaged cache entry is made anew: {error}")
        shutil.rmtree(entry, ignore_errors=True)


def _form(packed: bool) -> str:
    return "packed form" if packed else "4-bit form"


def cache_directory() -> Path:
    """`MOEE_INDEX_CACHE`, else the platform's cache directory."""
    from platformdirs import user_cache_path

    directory = os.environ.get("MOEE_INDEX_CACHE")
    return Path(directory).expanduser() if directory else user_cache_path("moee-index")
