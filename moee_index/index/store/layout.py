"""The layout of an index directory: the names of its files, and the numbers in them.

    INDEX/manifest.json                 written last; names every file, its size and checksum
    INDEX/lock                          held by the one writer
    INDEX/rejected.jsonl                lines that a build with on_bad="skip" could not use
    INDEX/standardizer-0001.safetensors
    INDEX/coarse-0001.safetensors       of an approximate index: how rows are put into lists
    INDEX/token-weights-<checksum>.npy  where texts are pooled by token weights
    INDEX/segment-0001/                 documents and raw rows, embedded together
        documents.sqlite  fields.sqlite  hs.f32  rw.f32  rows.crc
        hs-0001.faiss  rw-0001.faiss  norms-0001.f32  hs-0001.crc  rw-0001.crc
                                        what follows from the rows under one standardizer
        candidates-0001.faiss  candidates-0001.crc
                                        of an approximate index: codes to find candidates by
        leading-0001.safetensors  leading-0001.crc
                                        of a large segment: leading components of its vectors, by
                                        which a scan leaves most rows out
        lexical-0001.postings  lexical-0001.crc
                                        which words the rows hold, and checksums of its pieces
        deleted-0003.bits               which rows do not count any more
        building.json                   only while a segment is unfinished: its settings
    INDEX/workers/                      of a build or an add by several processes that has not ended
                                        (workers_folder.py)

A file that a manifest names is never written to again. Each version of an index has a number of
its own, the manifest's `revision`, and what is new in it carries that number in its name; so a
reader keeps the version that it opened, and a new one appears whole or not at all.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from moee_index.errors import MisuseError
from moee_index.index.store.reading import unreadable
from moee_index.text import shown

MANIFEST = "manifest.json"
BUILDING = "building.json"
REJECTED = "rejected.jsonl"
WORKERS = "workers"
DOCUMENTS = "documents.sqlite"
FIELDS = "fields.sqlite"
ROW_CHECKS = "rows.crc"
LEXICAL = "lexical"
CANDIDATES = "candidates"
LEADING = "leading"
STORES = {"float32": ("<f4", ".f32"), "float16": ("<f2", ".f16")}
SEGMENT = re.compile(r"segment-(\d{4,})")
# What all segments share and a version may bring anew.
_SHARED = re.compile(r"(?:standardizer|coarse)-(\d{4,})\.safetensors")
WEIGHT_TABLES = "token-weights-*.npy"


def index_directory(directory: object) -> Path:
    """The path that a caller gave for an index. Raises MisuseError for what is no path."""
    if not isinstance(directory, str | os.PathLike):
        raise MisuseError(
            f"the index is named by the path of its directory, not by {type(directory).__name__}"
        )
    path = Path(directory)
    if "\0" in str(path):
        raise MisuseError(f"{shown(str(path))} is no path of an index: it holds a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise MisuseError(
            f"{shown(str(path))} is no path of an index: {error.reason} at character "
            f"{error.start + 1}"
        ) from None
    return path


def raw_name(part: str, store: str) -> str:
    """File name of a part's raw rows."""
    return part + STORES[store][1]


def codes_name(part: str, revision: int) -> str:
    """File name of a part's FAISS index, or of the candidates' (part CANDIDATES)."""
    return f"{part}-{revision:04d}.faiss"


def code_checks_name(part: str, revision: int) -> str:
    """File name of the checksums of a FAISS file's pieces (part CANDIDATES: the candidates'), of
    the leading components' (part LEADING), or of the postings' (part LEXICAL)."""
    return f"{part}-{revision:04d}.crc"


def leading_name(revision: int) -> str:
    return f"{LEADING}-{revision:04d}.safetensors"


def postings_name(revision: int) -> str:
    return f"{LEXICAL}-{revision:04d}.postings"


def norms_name(revision: int) -> str:
    return f"norms-{revision:04d}.f32"


def deleted_name(revision: int) -> str:
    return f"deleted-{revision:04d}.bits"


def standardizer_name(revision: int) -> str:
    return f"standardizer-{revision:04d}.safetensors"


def coarse_name(revision: int) -> str:
    return f"coarse-{revision:04d}.safetensors"


def token_weights_name(checksum: str) -> str:
    return WEIGHT_TABLES.replace("*", checksum[:16])


def segment_name(revision: int) -> str:
    return f"segment-{revision:04d}"


def segment_folders(directory: Path) -> list[Path]:
    """The segment folders of an index directory, oldest first. Raises StorageError where it cannot
    be listed."""
    return _numbered(directory, SEGMENT)


def shared_files(directory: Path) -> list[Path]:
    """Standardizers and coarse quantizers of an index directory, oldest first."""
    return _numbered(directory, _SHARED)


def _numbered(directory: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        paths = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
    matches = [(int(match[1]), path) for path in paths if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(matches)]


def next_revision(directory: Path, published: int) -> int:
    """A number above the published revision that no file of the directory carries yet."""
    taken = [path.name for path in (*segment_folders(directory), *shared_files(directory))]
    numbers = [int(re.sub(r"\D", "", name)) for name in taken]
    return max([published, *numbers]) + 1
