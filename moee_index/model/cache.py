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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from moee_index.errors import ModelError, StorageError
from moee_index.model.checkpoint import Checkpoint, open_checkpoint
from moee_index.model.four_bit_checkpoint import (
    WEIGHTS_FILE,
    check_digest,
    collect_tensors,
    digest_of,
    write_four_bit,
)
from moee_index.model.storage import Storage

_SAID = "packed.json"


class Cache:
    """One cache directory. `tell` gets a line for what is kept, found damaged, or cannot be."""

    def __init__(self, tell: Callable[[str], None], directory: Path | None = None) -> None:
        self.directory = directory or cache_directory()
        self._tell = tell

    def four_bit(self, checkpoint: Checkpoint, storage: Storage) -> Checkpoint | None:
        """The sound 4-bit checkpoint made from this one, or None."""
        entry = self._entry(checkpoint, storage)
        if not entry.is_dir():
            return None
        try:
            found = open_checkpoint(entry, name=checkpoint.name, revision=checkpoint.revision)
            said = found.quantization or {}
            check_digest(entry / WEIGHTS_FILE, said.get("bytes"), said.get("digest"))
            return found
        except (ModelError, OSError) as error:
            self._remove_damaged(entry, error)
            return None

    def keep_four_bit(self, model: Any, checkpoint: Checkpoint, storage: Storage) -> None:
        """Write a loaded model as an entry; without space for it the model runs all the same."""
        entry = self._entry(checkpoint, storage)
        try:
            write_four_bit(model, checkpoint, entry, double_quant=storage.double_quant)
        except StorageError as error:
            if not entry.is_dir():  # else another process was faster
                self._tell(f"the 4-bit form is not kept: {error}")
            return
        self._told_size(entry, "the 4-bit form")

    def packed(self, checkpoint: Checkpoint, storage: Storage) -> Path | None:
        """The weight file of the sound packed entry of this checkpoint, or None."""
        entry = self._entry(checkpoint, storage, packed=True)
        file = entry / WEIGHTS_FILE
        if not entry.is_dir():
            return None
        try:
            said = json.loads((entry / _SAID).read_text(encoding="utf-8"))
            check_digest(file, said["bytes"], said["digest"])
            return file
        except (ModelError, OSError, ValueError, KeyError, TypeError) as error:
            self._remove_damaged(entry, error)
            return None

    def keep_packed(self, model: Any, checkpoint: Checkpoint, storage: Storage) -> None:
        """Write a packed model as an entry; without space for it the model runs all the same."""
        from safetensors.torch import save_file

        entry = self._entry(checkpoint, storage, packed=True)
        partial: Path | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=self.directory))
            file = partial / WEIGHTS_FILE
            save_file(collect_tensors(model), file, metadata={"format": "pt"})
            said = {"bytes": file.stat().st_size, "digest": digest_of(file)}
            (partial / _SAID).write_text(json.dumps(said), encoding="utf-8")
            partial.rename(entry)
        except (OSError, SafetensorError) as error:
            if not entry.is_dir():
                self._tell(f"the packed form is not kept: {error}")
            return
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
        self._told_size(entry, "the packed form")

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
                    f"{self.directory / name} cannot be removed: {error.strerror}; do it by hand"
                ) from error
            freed += size
        return freed

    def _entry(self, checkpoint: Checkpoint, storage: Storage, packed: bool = False) -> Path:
        kind = "-nf4-double" if storage.double_quant else "-nf4"
        return self.directory / (checkpoint.fingerprint[:32] + kind + ("-packed" if packed else ""))

    def _remove_damaged(self, entry: Path, error: Exception) -> None:
        self._tell(f"a damaged cache entry is made anew: {error}")
        shutil.rmtree(entry, ignore_errors=True)

    def _told_size(self, entry: Path, what: str) -> None:
        size = sum(file.stat().st_size for file in entry.iterdir())
        self._tell(
            f"{what} is kept in {entry} ({size / 1e9:.2f} GB), so that the next start is fast; "
            "--no-cache keeps nothing, info --prune-cache removes it"
        )


def cache_directory() -> Path:
    """`MOEE_INDEX_CACHE`, else the platform's cache directory."""
    from platformdirs import user_cache_path

    named = os.environ.get("MOEE_INDEX_CACHE")
    return Path(named).expanduser() if named else user_cache_path("moee-index")
