"""The files of a corpus: which they are, of what format, and what their folders say of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from moee_index.errors import CorpusError
from moee_index.readers.formats import FORMATS, READERS
from moee_index.readers.lines import open_bytes, split_name
from moee_index.text import escaped

_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class CorpusFile:
    """One file. path: as given, or within the folder that was; "-" is stdin. name: for messages.

    kind: the ending of its format. size: bytes, None where that is unknown. partitions: the fields
    that the names of its folders give all its records (`year=2024`).
    """

    path: str
    stem: str
    kind: str
    size: int | None
    partitions: dict[str, str | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "stdin" if self.path == "-" else escaped(self.path)


def as_utf8(name: str) -> str:
    """A file name as text: it need not be UTF-8, while ids and messages must be."""
    return name.encode("utf-8", "replace").decode("utf-8")


def corpus_files(name: str | Path, form: str | None) -> list[CorpusFile]:
    """The files of one corpus as it is named; form: their format, where it is said.

    Raises CorpusError where there is none or its format is not known.
    """
    if str(name) == "-":
        return [CorpusFile("-", "stdin", f".{form or 'jsonl'}", None)]
    path = Path(name)
    status = _status(path)
    if stat.S_ISDIR(status.st_mode):
        return _in_folder(path, form)
    stem, kind, _ = split_name(path)
    if form is not None:
        kind = f".{form}"
    if kind not in READERS:
        if stat.S_ISREG(status.st_mode):
            with open_bytes(path):  # which may tell what it is
                pass
        raise CorpusError(
            f"{escaped(str(path))}: unknown kind of file {kind or '(no ending)'}; known are "
            f"{', '.join(READERS)}, each also with .gz or .zst; say what it is with "
            f"--format {'|'.join(FORMATS)}"
        )
    return [_file(path, status, stem, kind)]


def _status(path: Path) -> os.stat_result:
    shown = escaped(str(path))
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(f"{shown}: no such file; check the path") from None
    except OSError as error:
        raise CorpusError(f"{shown}: cannot be opened ({error.strerror or error})") from None
    except ValueError as error:  # a zero byte in the name
        raise CorpusError(f"{shown}: is no name of a file ({error})") from None


def _file(path: Path, status: os.stat_result, stem: str, kind: str) -> CorpusFile:
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    return CorpusFile(str(path), stem, kind, size)


def _in_folder(folder: Path, form: str | None) -> list[CorpusFile]:
    """BEIR's corpus.jsonl, else all Parquet files under the folder, by name."""
    for ending in ("", ".gz", ".zst"):
        inner = folder / f"corpus.jsonl{ending}"
        if form in (None, "jsonl") and inner.is_file():
            return [_file(inner, inner.stat(), "corpus", ".jsonl")]
    # The hub keeps a data set's queries and judgements beside the corpus.
    top = folder / "corpus" if (folder / "corpus").is_dir() else folder
    parts = list(_parts(top)) if form in (None, "parquet") else []
    if not parts:
        raise CorpusError(
            f"{escaped(str(folder))}: a folder without corpus.jsonl, so not a BEIR data set, and "
            "without Parquet files; name the files in it"
        )
    return parts


def _parts(top: Path) -> Iterator[CorpusFile]:
    def fail(error: OSError) -> None:
        where = escaped(str(error.filename))
        raise CorpusError(f"{where}: cannot be opened ({error.strerror or error})") from None

    seen: set[str] = set()
    for folder, inner, names in os.walk(top, onerror=fail, followlinks=True):
        # A link may lead to a folder that it lies in.
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        # As Spark and others do, which keep their own notes under such names.
        inner[:] = sorted(name for name in inner if not name.startswith(("_", ".")))
        for name in sorted(names):
            path = Path(folder, name)
            stem, kind, _ = split_name(path)
            if kind == ".parquet" and not name.startswith(("_", ".")):
                status = _status(path)
                partitions = dict(_partitions(path.parent.relative_to(top)))
                yield CorpusFile(str(path), stem, kind, status.st_size, partitions)


def _partitions(folders: Path) -> Iterator[tuple[str, str | None]]:
    for part in folders.parts:
        name, sign, value = part.partition("=")
        if sign and name:
            value = unquote(value)
            yield as_utf8(unquote(name)), None if value == _NO_PARTITION else as_utf8(value)
