"""The layout of an index directory and its manifest, whose presence means complete.

    INDEX/manifest.json       written last; names one generation, its files, sizes and checksums
    INDEX/lock                held by the one writer
    INDEX/rejected.jsonl      lines that a build with on_bad="skip" could not use
    INDEX/gen-0001/           the files themselves
    INDEX/gen-0001/building.json   only while a build is not finished: what it was begun with

Knows names, versions and checksums. Refuses to know what the files hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from moee_index.embeddings import EncoderSpec
from moee_index.errors import IndexDamagedError, NotAnIndexError
from moee_index.index.storage import json_bytes, sha256_file, storage_errors, write_file

FORMAT = "moee-index"
VERSION = 1
MANIFEST = "manifest.json"
BUILDING = "building.json"
REJECTED = "rejected.jsonl"
DOCUMENTS = "documents.sqlite"
NORMS = "norms.f32"
STANDARDIZER = "standardizer.safetensors"
PARTS = ("hs", "rw")
STORES = {"float32": ("<f4", ".f32"), "float16": ("<f2", ".f16")}
_GENERATION = re.compile(r"gen-(\d{4,})")


def raw_name(part: str, store: str) -> str:
    """File name of a part's raw rows."""
    return part + STORES[store][1]


def codes_name(part: str) -> str:
    """File name of a part's FAISS index."""
    return f"{part}.faiss"


def generations(directory: Path) -> list[Path]:
    """The generation folders of an index directory, oldest first."""
    if not directory.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in directory.iterdir()
        if (match := _GENERATION.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def next_generation(directory: Path) -> Path:
    """A generation folder that does not exist yet."""
    there = generations(directory)
    number = int(there[-1].name.removeprefix("gen-")) + 1 if there else 1
    return directory / f"gen-{number:04d}"


def remove_generation(generation: Path) -> None:
    """Remove a generation, its building.json last, so that a crash leaves it recognisable."""
    with storage_errors(generation), contextlib.suppress(FileNotFoundError):
        for path in generation.iterdir():
            if path.name != BUILDING:
                path.unlink()
        shutil.rmtree(generation)


@dataclass(frozen=True)
class Building:
    """What an unfinished build was begun with, and what a resumed one must agree to.

    batch_tokens and window decide which texts share a batch: a resumed build keeps them.
    """

    spec: EncoderSpec
    standardize: str
    index_type: str
    store: str
    batch_tokens: int
    window: int

    def write(self, generation: Path) -> None:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_file(generation / BUILDING, json_bytes(content))

    @classmethod
    def read(cls, generation: Path) -> Building | None:
        """None where the folder is no unfinished build. Raises IndexDamagedError."""
        path = generation / BUILDING
        try:
            content = _object(path)
        except FileNotFoundError:
            return None
        _check_version(content, path)
        with _damaged(path):
            named = {field.name: content[field.name] for field in fields(cls)}
            return cls(**{**named, "spec": EncoderSpec(**named["spec"])})


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of a finished file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that a reader has to know before it opens a file of a finished index.

    index_type: part → "flat" or a FAISS factory string. codes_error: part → the longest
    difference between a unit vector and its stored codes, which bounds what a scan can be wrong by
    (empty for approximate types). counts: what the build read, truncated, skipped and rejected.
    files: path relative to the index directory → size and checksum.
    """

    generation: str
    spec: EncoderSpec
    documents: int
    standardize: str
    index_type: dict[str, str]
    store: str
    alpha: float
    batch_tokens: int
    window: int
    codes_error: dict[str, float]
    counts: dict[str, int]
    model_bytes: dict[str, int] | None
    created: str
    program: str
    files: dict[str, FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json_bytes({**content, "sha256": _checksum(content)})

    def write(self, directory: Path) -> None:
        write_file(directory / MANIFEST, self.to_bytes())

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises NotAnIndexError where there is none, IndexDamagedError where it is altered."""
        path = directory / MANIFEST
        try:
            content = _object(path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotAnIndexError(_missing(directory)) from None
        if content.get("format") != FORMAT:
            raise NotAnIndexError(
                f"{path} does not belong to moee-index; name an index directory, or build one"
            )
        _check_version(content, path)
        expected = content.pop("sha256", None)
        if expected != _checksum(content):
            raise IndexDamagedError(
                f"{path} is damaged (its checksum does not agree); build the index again with "
                "--overwrite"
            )
        with _damaged(path):
            named = {field.name: content[field.name] for field in fields(cls)}
            files = {name: FileEntry(**entry) for name, entry in named["files"].items()}
            for name in (named["generation"], *files):
                _check_relative(name)
            _check_values(named)
            return cls(**{**named, "spec": EncoderSpec(**named["spec"]), "files": files})

    def path(self, directory: Path, name: str) -> Path:
        """Where a file of the generation is; its size is checked against the manifest.

        Raises IndexDamagedError naming a file that is missing or of another size.
        """
        relative = f"{self.generation}/{name}"
        path = directory / relative
        if relative not in self.files:
            raise IndexDamagedError(f"{directory / MANIFEST} does not list {relative}")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise IndexDamagedError(
                f"{path} cannot be read ({error.strerror}); restore it or build again with "
                "--overwrite"
            ) from error
        if size != self.files[relative].size:
            raise IndexDamagedError(
                f"{path} has {size} bytes instead of {self.files[relative].size}; restore it or "
                "build again with --overwrite"
            )
        return path


def file_entries(generation: Path, names: tuple[str, ...]) -> dict[str, FileEntry]:
    """Sizes and checksums of a generation's files, by their paths in the index directory."""
    return {
        f"{generation.name}/{name}": FileEntry(
            (generation / name).stat().st_size, sha256_file(generation / name)
        )
        for name in names
    }


def _missing(directory: Path) -> str:
    if not directory.exists():
        return f"{directory}: no such directory; make an index there with moee-index build"
    if any((path / BUILDING).exists() for path in generations(directory)):
        return (
            f"{directory} holds a build that is not finished; start the same build again to go on"
        )
    return f"{directory} is no index (it has no {MANIFEST}); make one with moee-index build"


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise IndexDamagedError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise IndexDamagedError(
            f"{path} is damaged (it holds no JSON: {error}); build again with --overwrite"
        ) from error
    if not isinstance(content, dict):
        raise IndexDamagedError(f"{path} is damaged (it holds no JSON object)")
    return content


def _check_version(content: Mapping[str, Any], path: Path) -> None:
    version = content.get("version")
    if not isinstance(version, int) or version < 1:
        raise IndexDamagedError(f"{path} is damaged (its version is {version!r})")
    if version > VERSION:
        raise IndexDamagedError(
            f"{path} has version {version} and was written by a later moee-index (this one reads "
            f"{VERSION}); upgrade moee-index"
        )


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_values(named: Mapping[str, Any]) -> None:
    """What the rest of the program counts on; a checksum alone does not promise it."""
    numbers = [named["documents"], named["spec"]["hs_dim"], named["spec"]["rw_dim"]]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError("a count is no whole number above 0")
    if named["store"] not in STORES:
        raise ValueError(f"store is {named['store']!r}")
    if not all(isinstance(named["index_type"][part], str) for part in PARTS):
        raise ValueError(f"index_type is {named['index_type']!r}")
    if not all(isinstance(error, float) for error in named["codes_error"].values()):
        raise ValueError(f"codes_error is {named['codes_error']!r}")
    if not isinstance(named["alpha"], int | float):
        raise ValueError(f"alpha is {named['alpha']!r}")


def _check_relative(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"{name!r} leads out of the index")


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IndexDamagedError(
            f"{path} is damaged ({type(error).__name__}: {error}); build again with --overwrite"
        ) from error
