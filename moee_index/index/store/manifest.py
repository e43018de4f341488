"""The manifest of an index, whose presence means complete, and the settings of an unfinished
segment.

File names are given by layout.py; what the files hold is left to the modules beside this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from moee_index.atomic import json_bytes, sha256_file, write_file
from moee_index.errors import (
    IndexDamagedError,
    MisuseError,
    NotAnIndexError,
    counted,
    first_line,
)
from moee_index.index.store.approximation import Approximation
from moee_index.index.store.layout import (
    BUILDING,
    CANDIDATES,
    DOCUMENTS,
    FIELDS,
    LEADING,
    LEXICAL,
    MANIFEST,
    ROW_CHECKS,
    WORKERS,
    coarse_name,
    code_checks_name,
    codes_name,
    deleted_name,
    leading_name,
    norms_name,
    postings_name,
    raw_name,
    segment_folders,
    standardizer_name,
    token_weights_name,
)
from moee_index.index.store.manifest_values import check_building, check_manifest
from moee_index.index.store.reading import known, reading, unreadable
from moee_index.text import shown
from moee_index.types import PARTS, WINDOW_CHARACTERS, EncoderSpec, Pair

FORMAT = "moee-index"
# 5 has leading components; 4 is approximate; 3 has postings; 2 is 3 without them.
VERSION = 5
_APPROXIMATE = 4
_EXACT = 3
_OLDEST = 2
# Of fields that a manifest may lack, and does where they say nothing.
_SAY_NOTHING: dict[str, Any] = {
    "lexical_weight": 0.0,
    "tuned": False,
    "approximation": None,
    "shards": 0,
    "computed_on": {},
}


@dataclass(frozen=True)
class Building:
    """The settings of an unfinished segment, which a resumed build must share.

    batch_tokens, window and characters (of a window at most; None: of any number, as earlier
    versions had it) decide which texts share a batch: a resumed build keeps them.
    chunk: how long documents are split ("200:40"), None where they are not. purpose: whether a new
    index is built or documents are added to one. language: how words are stemmed.
    """

    spec: EncoderSpec
    standardize: str
    index_type: str
    store: str
    chunk: str | None
    batch_tokens: int
    window: int
    purpose: Literal["build", "add"] = "build"
    characters: int | None = WINDOW_CHARACTERS
    language: str = "none"

    def write(self, folder: Path) -> None:
        settings = {**asdict(self), "spec": self.spec.stored()}
        content = {"format": FORMAT, "version": _EXACT, **settings}
        write_file(folder / BUILDING, json_bytes(content))

    @classmethod
    def read(cls, folder: Path) -> Building | None:
        """None if the folder is not an unfinished segment. Raises IndexDamagedError."""
        path = folder / BUILDING
        try:
            content = _object(path)
        except FileNotFoundError:
            return None
        _check_version(content, path)
        with _damaged(path):
            content.setdefault("characters", None)
            content.setdefault("language", "none")
            named = {field.name: content[field.name] for field in fields(cls)}
            building = cls(**{**named, "spec": EncoderSpec.from_stored(named["spec"])})
            check_building(building)
            return building


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of a finished file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Lexical:
    """The postings of a segment. revision: in the names of their files; words: what decided the
    words of its texts (`Words.identity`)."""

    revision: int
    words: str


@dataclass(frozen=True)
class Leading:
    """The leading components of a segment. revision: in the names of their files; read: the share
    of the codes' bytes that a scan by them was found to cost."""

    revision: int
    read: float


@dataclass(frozen=True)
class Segment:
    """Documents that were embedded together, and what was made of their rows.

    rows: passages, one a document where nothing is split; in the order of the index.
    documents, rows: deleted ones included. index_type: "flat" or a FAISS factory string.
    codes_error: the longest difference between a unit vector and its stored codes, which bounds
    what a scan can be wrong by (None for approximate types). derived: the revision in the
    names of norms and codes; deleted: the revision in the name of the bitmap of deleted rows,
    None where none are. lexical: its postings; None in an index without them. candidates: the
    revision in the names of its candidates' files; None in an exact index. leading: None where a
    scan would not gain by them.
    """

    name: str
    documents: int
    rows: int
    index_type: Pair[str]
    codes_error: Pair[float] | None
    derived: int
    deleted: int | None = None
    deleted_documents: int = 0
    deleted_rows: int = 0
    lexical: Lexical | None = None
    candidates: int | None = None
    leading: Leading | None = None

    @property
    def live_rows(self) -> int:
        return self.rows - self.deleted_rows

    def names(self, store: str) -> list[str]:
        """Its files, without the folder."""
        names = [DOCUMENTS, FIELDS, *(raw_name(part, store) for _, part in PARTS), ROW_CHECKS]
        for _, part in PARTS:
            names += [codes_name(part, self.derived), code_checks_name(part, self.derived)]
        names.append(norms_name(self.derived))
        if self.lexical is not None:
            revision = self.lexical.revision
            names += [postings_name(revision), code_checks_name(LEXICAL, revision)]
        if self.candidates is not None:
            revision = self.candidates
            names += [codes_name(CANDIDATES, revision), code_checks_name(CANDIDATES, revision)]
        if self.leading is not None:
            revision = self.leading.revision
            names += [leading_name(revision), code_checks_name(LEADING, revision)]
        if self.deleted is not None:
            names.append(deleted_name(self.deleted))
        return names


@dataclass(frozen=True)
class Manifest:
    """Everything that a reader needs before it opens a file of a finished index.

    revision: counts the versions of this index. standardizer: the revision in its file's name.
    index_type: what was asked for; a segment added later is flat until `compact`, and the segments
    of an approximate index are flat with candidates beside them. counts:
    what the build read, truncated, skipped and rejected. chunk: see `Building`. created: of the
    first version, changed: of this one. language: how words are stemmed, "none" where they are not;
    None in an index without postings. lexical_weight: how much words weigh in a search unless it
    says so itself; tuned: whether `tune` chose the weights, else they are the model's.
    approximation: of an index of type `approx`. files: path relative to the index directory → size
    and checksum. shards: into how many parts the documents were divided by their ids, where several
    processes embedded them, so that they are not in the order of the corpus; 0 where one did.
    computed_on: device and type of the processes that embedded, where there were several →
    documents.
    """

    revision: int
    spec: EncoderSpec
    standardize: str
    standardizer: int
    index_type: Pair[str]
    store: str
    chunk: str | None
    alpha: float
    batch_tokens: int
    window: int
    counts: dict[str, int]
    model_bytes: dict[str, int] | None
    created: str
    changed: str
    program: str
    segments: tuple[Segment, ...] = ()
    files: dict[str, FileEntry] = field(default_factory=dict)
    language: str | None = None
    lexical_weight: float = 0.0
    tuned: bool = False
    approximation: Approximation | None = None
    shards: int = 0
    computed_on: dict[str, int] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        """Documents that count."""
        return sum(segment.documents - segment.deleted_documents for segment in self.segments)

    @property
    def rows(self) -> int:
        """Rows that count: passages, one a document where nothing is split."""
        return sum(segment.live_rows for segment in self.segments)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        settings = {**asdict(self), "spec": self.spec.stored()}
        # What an earlier program can read says so.
        version = _EXACT if self.approximation is None else _APPROXIMATE
        if any(segment.leading is not None for segment in self.segments):
            version = VERSION
        content = {"format": FORMAT, "version": version, **settings}
        for entry in content["segments"]:
            entry["codes_error"] = entry["codes_error"] or {}
            for name in ("candidates", "leading"):
                if entry[name] is None:
                    del entry[name]
        # Left out where they say nothing, as earlier versions have it.
        for name in _SAY_NOTHING:
            if not content[name]:
                del content[name]
        return json_bytes({**content, "sha256": _checksum(_plain(content))})

    def write(self, directory: Path) -> None:
        write_file(directory / MANIFEST, self.to_bytes())

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises NotAnIndexError if there is none, IndexDamagedError if it was altered."""
        path = directory / MANIFEST
        try:
            content = _object(path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotAnIndexError(_missing(directory)) from None
        return cls._of(content, path)

    @classmethod
    def from_bytes(cls, written: bytes, path: Path) -> Manifest:
        """What was read elsewhere; path: where, for messages. Raises as `read`."""
        return cls._of(_object_in(written, path), path)

    @classmethod
    def _of(cls, content: dict[str, Any], path: Path) -> Manifest:
        if content.get("format") != FORMAT:
            raise NotAnIndexError(
                f"{path} does not belong to moee-index; name an index directory, or build one"
            )
        _check_version(content, path)
        expected = content.pop("sha256", None)
        if expected != _checksum(content):
            raise IndexDamagedError(
                f"{path} is damaged (its checksum does not match); build the index again with "
                "--overwrite"
            )
        with _damaged(path):
            content = {"language": None, **_SAY_NOTHING, **content}
            named = {field.name: content[field.name] for field in fields(cls)}
            named["files"] = {name: FileEntry(**entry) for name, entry in named["files"].items()}
            named["segments"] = tuple(_segment(entry) for entry in named["segments"])
            named["index_type"] = Pair(**named["index_type"])
            named["spec"] = EncoderSpec.from_stored(named["spec"])
            if named["approximation"] is not None:
                named["approximation"] = Approximation.from_stored(named["approximation"])
            manifest = cls(**named)
            check_manifest(manifest)
            return manifest

    def path(self, directory: Path, name: str, segment: Segment | None = None) -> Path:
        """Where a file is; its size is checked against the manifest.

        Raises IndexDamagedError naming a file that is missing or of another size.
        """
        relative = name if segment is None else f"{segment.name}/{name}"
        path = directory / relative
        if relative not in self.files:
            raise IndexDamagedError(f"{directory / MANIFEST} does not list {relative}")
        with reading(path):
            size = path.stat().st_size
        if size != self.files[relative].size:
            raise IndexDamagedError(
                f"{path} has {counted(size, 'byte')} instead of {self.files[relative].size}; "
                "restore it or build again with --overwrite"
            )
        return path

    def with_segments(
        self, directory: Path, segments: Sequence[Segment], standardizer: int | None = None
    ) -> Manifest:
        """This index with other segments: entries of their files are kept where they are known
        and made where they are new. Reads new files for their checksums."""
        standardizer = self.standardizer if standardizer is None else standardizer
        names = [standardizer_name(standardizer)]
        if self.approximation is not None:
            names.append(coarse_name(self.approximation.coarse))
        if self.spec.token_weights is not None:
            names.append(token_weights_name(self.spec.token_weights))
        names += [
            f"{segment.name}/{name}" for segment in segments for name in segment.names(self.store)
        ]
        entries = {name: self.files.get(name) or file_entry(directory / name) for name in names}
        return replace(self, segments=tuple(segments), standardizer=standardizer, files=entries)


def _segment(entry: Mapping[str, Any]) -> Segment:
    errors, lexical, leading = entry["codes_error"], entry.get("lexical"), entry.get("leading")
    return Segment(
        **{
            **entry,
            "index_type": Pair(**entry["index_type"]),
            "codes_error": Pair(**errors) if errors else None,
            "lexical": Lexical(**lexical) if lexical else None,
            "leading": Leading(**leading) if leading else None,
        }
    )


def file_entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, sha256_file(path))


def _missing(directory: Path) -> str:
    if not known(directory.exists):
        return f"{directory}: no such directory; make an index there with moee-index build"
    folders = [*segment_folders(directory), directory / WORKERS]
    if any(known((path / BUILDING).exists) for path in folders):
        return f"{directory} holds an unfinished build; start the same build again to resume it"
    return f"{directory} is not an index (it has no {MANIFEST}); make one with moee-index build"


def _object(path: Path) -> dict[str, Any]:
    try:
        written = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    return _object_in(written, path)


def _object_in(written: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise IndexDamagedError(
            f"{path} is damaged (it is not JSON: {error}); build again with --overwrite"
        ) from error
    if not isinstance(content, dict):
        raise IndexDamagedError(f"{path} is damaged (it is not a JSON object); restore it")
    return content


def _check_version(content: Mapping[str, Any], path: Path) -> None:
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        told = shown(repr(version))
        raise IndexDamagedError(f"{path} is damaged (its version is {told}); restore it")
    if version > VERSION:
        raise IndexDamagedError(
            f"{path} has version {version} and was written by a later moee-index (this one reads "
            f"{VERSION}); upgrade moee-index"
        )
    if version < _OLDEST:
        raise IndexDamagedError(
            f"{path} has version {version}, of an earlier moee-index (this one reads {_OLDEST} and "
            f"{VERSION}); build the index again with --overwrite"
        )


def _plain(content: Mapping[str, Any]) -> Any:
    """As it will be read back: tuples are lists in JSON."""
    return json.loads(json.dumps(content))


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else "its fields are other ones"
        raise _not_ours(path, why) from error
    except (ValueError, MisuseError) as error:
        raise _not_ours(path, shown(first_line(error), 200)) from error


def _not_ours(path: Path, why: str) -> IndexDamagedError:
    return IndexDamagedError(f"{path} is damaged ({why}); build again with --overwrite")
