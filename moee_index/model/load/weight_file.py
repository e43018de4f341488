"""Write weight files: safetensors at full size, memory-mapped and filled tensor by tensor.

The running model uses the written file itself, so quantizing a model takes no more anonymous memory
than a slice, however large it is. A draft is a directory that appears under its name complete or
not at all. Which module a tensor belongs to is left to the callers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from moee_index.atomic import begin_directory, finish_directory, storage_errors
from moee_index.errors import ModelError, StorageError
from moee_index.model.checkpoint.header import safetensors_header

WEIGHTS_FILE = "model.safetensors"
EXISTS = "{} exists; quantize never overwrites, take another directory"

# name -> (shape, dtype)
Specs = dict[str, tuple[tuple[int, ...], torch.dtype]]

_UNWRITABLE = "{path} cannot be written: {why}; free space or take another directory"
_PIECE = 64 * 2**20
_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Draft:
    """A directory with a weight file, to be filled through `tensors` and then published.

    Use as a context manager: without `publish` nothing is left behind. Tensors stay valid as long
    as they are referenced. Raises StorageError if there is not enough space for all of it.
    """

    def __init__(self, directory: Path, specs: Specs) -> None:
        self.directory = directory
        if directory.exists():
            raise StorageError(EXISTS.format(directory))
        with storage_errors(directory, _UNWRITABLE):
            self._partial = begin_directory(directory)
            self.file = self._partial / WEIGHTS_FILE
            try:
                self.tensors = create_mapped(self.file, specs)
            except OSError:
                self._discard()
                raise

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def checksum(self) -> dict[str, Any]:
        """What `check_digest` compares the weights with, once they are complete."""
        return {"bytes": self.file.stat().st_size, "digest": digest_of(self.file)}

    def publish(self, name: str, record: dict[str, Any], files: Iterable[Path] = ()) -> None:
        """Copy `files` beside the weights, write `record` as JSON under `name`, and give the
        directory its final name.

        Raises StorageError if the disk is full or another process was faster.
        """
        with storage_errors(self.directory, _UNWRITABLE):
            for file in files:
                shutil.copyfile(file, self._partial / file.name)
            text = json.dumps(record, indent=1) + "\n"
            (self._partial / name).write_text(text, encoding="utf-8")
            finish_directory(self._partial, self.directory)
        self.file = self.directory / WEIGHTS_FILE

    def _discard(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def create_mapped(file: Path, specs: Specs) -> dict[str, torch.Tensor]:
    """Make a safetensors file of zeros and map it: name -> tensor, writable, shared with the file.

    Its space on disk is reserved first, so a full disk is an OSError here, not a fault later.
    """
    # Widest numbers first, so that each tensor begins at a multiple of its own width.
    order = sorted(specs, key=lambda name: (-specs[name][1].itemsize, name))
    tensors = {
        name: (_NAMES[dtype], shape, dtype.itemsize)
        for name, (shape, dtype) in ((name, specs[name]) for name in order)
    }
    header, offsets = safetensors_header(tensors, {"format": "pt"})
    size = max((offset.stop for offset in offsets.values()), default=len(header))
    with file.open("xb") as stream:
        _reserve(stream.fileno(), size, file)
        stream.write(header)
    content = torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
    return {
        name: content[offset].view(specs[name][1]).view(specs[name][0])
        for name, offset in offsets.items()
    }


def _reserve(descriptor: int, size: int, file: Path) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    if shutil.disk_usage(file.parent).free < size:  # macOS has no such call
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(descriptor, size)


def check_digest(file: Path, size: int | None, digest: str | None) -> None:
    """Raise ModelError unless every byte of a file is as written."""
    if size is not None and file.stat().st_size != size:
        raise ModelError(
            f"{file} has {file.stat().st_size} bytes, but {size} were written; copy it again"
        )
    if digest is not None and digest_of(file) != digest:
        raise ModelError(f"{file} is damaged: its checksum is different; copy it again")


def digest_of(file: Path) -> str:
    """sha256 over the sha256 of each 64 MiB of a file; the pieces are hashed on all cores."""
    size = file.stat().st_size
    with ThreadPoolExecutor() as pool:
        pieces = pool.map(lambda start: _piece_digest(file, start), range(0, size, _PIECE))
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def _piece_digest(file: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    buffer = bytearray(2**20)
    with file.open("rb") as stream:
        stream.seek(start)
        rest = _PIECE
        while rest and (count := stream.readinto(memoryview(buffer)[: min(rest, len(buffer))])):
            digest.update(memoryview(buffer)[:count])
            rest -= count
    return digest.digest()
