"""What is wrong with a file of a checkpoint that a library cannot read, in one line that names it.

Damage is told only where the content shows it: permissions, too many open files and a lack of
memory are told as what they are. Where files are looked for is left to `find`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from moee_index.errors import ModelError, MoeeIndexError, first_line, lacks_memory
from moee_index.text import shown

AGAIN = "copy it again"

_HEAD = 256
_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html")
_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
# How parsers of JSON say that a file ends early: serde's, and Python's.
_ENDS_EARLY = ("EOF while parsing", "Unterminated string")
# Bytes of a header: safetensors reads no longer ones.
_LONGEST_HEADER = 100_000_000


class UnreadableError(ModelError):
    """A file that may be sound but cannot be read here and now: no right to, no memory."""


@contextmanager
def reading(file: Path, reader: str = "") -> Iterator[None]:
    """Turn what goes wrong while a library reads a file into one line that names it.

    reader: who reads it, with its version. Raises ModelError.
    """
    try:
        yield
    except MoeeIndexError:
        raise
    except Exception as error:  # every library has errors of its own, tokenizers a bare Exception
        raise file_error(file, error, reader) from error


def file_error(file: Path, error: Exception, reader: str = "") -> ModelError:
    """The error for a file that could not be read because of another error."""
    if lacks_memory(error):
        return UnreadableError(f"there is not enough memory to read {file}")
    if isinstance(error, FileNotFoundError) and not file.exists():
        return ModelError(f"{file} does not exist; {AGAIN}")
    try:
        fault = content_fault(file)
    except OSError as refused:
        return unreadable(file, refused)
    if fault is not None:
        return ModelError(f"{file} {fault}")
    if isinstance(error, OSError):
        return unreadable(file, error)
    library = reader.partition(" ")[0]
    newer = f", or if it was made by a newer release, upgrade {library}" if library else ""
    why = shown(first_line(error), 200)
    if _ended_early(error):
        why += ": the file ends early"
    return ModelError(
        f"{file} cannot be read{f' by {reader}' if reader else ''} ({why}); {AGAIN}{newer}"
    )


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """The error for a file or a directory that the system does not let us read."""
    why = error.strerror or first_line(error)
    return UnreadableError(f"{path} cannot be read ({why})")


def content_fault(file: Path) -> str | None:
    """What a file holds in place of what its name says, and what to do; None where nothing of the
    kind shows. Raises OSError."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return f"is empty; {AGAIN}"
    if head.startswith(_LFS):
        return (
            "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`, or "
            "download it again"
        )
    if not head.strip(b"\x00"):
        return f"holds nothing but zeros; {AGAIN}"
    if head.lstrip().lower().startswith(_PAGES):
        return "is a web page, not the file itself; download it again"
    for mark, name in _ARCHIVES.items():
        if head.startswith(mark):
            return f"is a {name} archive; unpack it first"
    return None


def _ended_early(error: Exception) -> bool:
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()):
        return True
    return any(text in str(error) for text in _ENDS_EARLY)


@contextmanager
def reading_weights(files: Sequence[Path]) -> Iterator[None]:
    """Turn what goes wrong while safetensors files are opened, read and stored in memory into one
    line that names the file. Raises ModelError."""
    try:
        yield
    except MoeeIndexError:
        raise
    except (SafetensorError, OSError) as error:
        # safetensors calls a file missing that may not be opened: the true reason comes first.
        check_weights(files)
        where = files[0] if len(files) == 1 else files[0].parent
        if isinstance(error, OSError):
            raise unreadable(where, error) from error
        raise ModelError(
            f"{where} is damaged ({shown(first_line(error), 200)}); {AGAIN}"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise UnreadableError(
            f"there is not enough memory for the weights of {files[0].parent}; close other "
            "programs, or take a smaller model"
        ) from error


def check_weights(files: Sequence[Path]) -> None:
    """Raise ModelError for a weight file that cannot be opened, is something else, or is cut."""
    for file in files:
        try:
            fault = content_fault(file) or _size_fault(file)
        except OSError as error:
            raise unreadable(file, error) from error
        if fault is not None:
            raise ModelError(f"{file} {fault}")


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, empty where there is none. Raises OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > size:
            return {}
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            return {}
    return header if isinstance(header, dict) else {}


def _size_fault(file: Path) -> str | None:
    """How a safetensors file's size differs from what its header says; None where it does not, or
    the header says nothing. Raises OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if size < 8 or size < 8 + length < _LONGEST_HEADER:
        return _cut(size, 8 + length, "header alone")
    ends = [end for entry in read_header(file).values() if (end := _end(entry)) is not None]
    if not ends:
        return None
    expected = 8 + length + max(ends)
    if expected > size:
        return _cut(size, expected, "header")
    if expected < size:
        return f"is damaged: {size} bytes, of which its header knows {expected}; {AGAIN}"
    return None


def _cut(size: int, expected: int, by: str) -> str:
    return f"is cut: it has {size} bytes of the {expected} that its {by} speaks of; {AGAIN}"


def _end(entry: Any) -> int | None:
    """Where a tensor ends, as a header's entry has it."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int):
        return offsets[1]
    return None
