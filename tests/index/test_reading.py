"""What keeps an index from being read is told as what it is: only altered content is damage."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import mmap
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder
from moee_index.atomic import WriterLock, storage_errors, sync_directory
from moee_index.backends import load_faiss
from moee_index.errors import (
    IndexDamagedError,
    IndexLockedError,
    LibraryError,
    MisuseError,
    MoeeIndexError,
    NotAnIndexError,
    StorageError,
)
from moee_index.export.export import export_index
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    default_index,
    delete_documents,
    reindex,
    save_alpha,
    verify_index,
)
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.reading import reading
from moee_index.index.store.revisions import newest

SEGMENT = [
    "documents.sqlite", "fields.sqlite", "hs.f32", "rw.f32", "rows.crc", "norms-0001.f32",
    "hs-0001.faiss", "rw-0001.faiss", "hs-0001.crc", "rw-0001.crc", "deleted-0002.bits",
]  # fmt: skip
FILES = [MANIFEST, "standardizer-0001.safetensors", *(f"segment-0001/{name}" for name in SEGMENT)]
CODES = [errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reading") / "i"
    build_index(directory, fake_documents(80), FakeEncoder())
    delete_documents(directory, ["d3"])
    return directory


@contextlib.contextmanager
def refused(name: str, code: int) -> Iterator[None]:
    """The system refuses to open or to look at a file, for Python, SQLite and FAISS alike."""
    patch = pytest.MonkeyPatch()

    def hit(path: Any) -> None:
        if isinstance(path, str | os.PathLike) and str(path).endswith(name):
            raise OSError(code, os.strerror(code), str(path))

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            hit(path)
            return original(path, *args, **options)

        return call

    def connect(address: str, *args: Any, **options: Any) -> Any:
        if name in str(address):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        return original_connect(address, *args, **options)

    def read_index(path: str, *args: Any) -> Any:
        if path.endswith(name):
            raise RuntimeError(f"Error in FileIOReader: could not open {path}: {os.strerror(code)}")
        return original_read(path, *args)

    faiss = load_faiss()
    original_connect, original_read = sqlite3.connect, faiss.read_index
    with patch.context() as patched:
        patched.setattr(builtins, "open", guarded(builtins.open))
        patched.setattr(io, "open", guarded(io.open))
        patched.setattr(sqlite3, "connect", connect)
        patched.setattr(faiss, "read_index", read_index)
        yield


ANSWERS: list[Callable[[Path], object]] = [
    lambda directory: Index.open(directory).close(),
    compact_index,
    lambda directory: delete_documents(directory, ["d5"]),
    lambda directory: add_documents(directory, fake_documents(81), FakeEncoder()),
    reindex,
    lambda directory: build_index(
        directory, [each for each in fake_documents(80) if each.id != "d3"], FakeEncoder()
    ),
]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_system_refuses_is_not_damaged(whole: Path, name: str, code: int) -> None:
    with refused(name, code), pytest.raises(StorageError) as caught:
        Index.open(whole)
    told = str(caught.value)
    assert f"{name} cannot be read ({os.strerror(code)}); " in told
    assert "--overwrite" not in told and "is damaged" not in told and "\n" not in told
    Index.open(whole).close()


@pytest.mark.parametrize("name", FILES)
def test_every_command_says_so(whole: Path, tmp_path: Path, name: str) -> None:
    """No command takes a refusal for damage, and none changes anything."""
    for number, command in enumerate(ANSWERS):
        copy = Path(shutil.copytree(whole, tmp_path / str(number)))
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        with refused(name, errno.EACCES):
            try:
                command(copy)
            except MoeeIndexError as error:
                assert isinstance(error, StorageError), error
                assert "cannot be read (Permission denied)" in str(error)
            else:
                continue  # it does not read this file
        after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("name", FILES[1:])
def test_verify_reports_it_for_what_it_is(whole: Path, name: str) -> None:
    with refused(name, errno.EACCES):
        report = verify_index(whole, full=True)
    assert report.problems
    for problem in report.problems:
        assert f"{name} cannot be read (Permission denied)" in problem
    with refused(MANIFEST, errno.EACCES), pytest.raises(StorageError, match="Permission denied"):
        verify_index(whole)


def test_an_unreadable_manifest_is_not_built_over(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "i"))
    with refused(MANIFEST, errno.EACCES), pytest.raises(StorageError, match="Permission denied"):
        build_index(copy, fake_documents(3), FakeEncoder(), overwrite=True)
    assert Manifest.read(copy) == Manifest.read(whole)


def test_no_memory_to_map_a_file(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def memmap(path: Path, *args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(np, "memmap", memmap)
    with pytest.raises(StorageError, match=r"hs\.f32 cannot be read .*vm\.max_map_count"):
        Index.open(whole)


def test_faiss_without_memory(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_index(*_: Any) -> Any:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(load_faiss(), "read_index", read_index)
    with pytest.raises(StorageError, match=r"hs-0001\.faiss cannot be read .*free memory"):
        Index.open(whole)


def test_a_faiss_that_does_not_know_a_sound_file(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_index(*_: Any) -> Any:
        raise RuntimeError("Error in read_index: Index type 0x51536e58 not recognized")

    monkeypatch.setattr(load_faiss(), "read_index", read_index)
    with pytest.raises(LibraryError, match=r"faiss-cpu .* does not read .*hs-0001\.faiss"):
        Index.open(whole)


def of_sqlite(code: int | None, text: str, kind: type[sqlite3.Error]) -> sqlite3.Error:
    error = kind(text)
    if code is not None:
        error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "text", "expected", "told"),
    [
        (sqlite3.SQLITE_CORRUPT, "malformed", IndexDamagedError, "is damaged"),
        (sqlite3.SQLITE_CORRUPT | 1 << 8, "malformed", IndexDamagedError, "is damaged"),
        (sqlite3.SQLITE_NOTADB, "not a database", IndexDamagedError, "is damaged"),
        (sqlite3.SQLITE_ERROR, "no such table: fields", IndexDamagedError, "is damaged"),
        (None, "Could not decode to UTF-8 column 'id'", IndexDamagedError, "is damaged"),
        (sqlite3.SQLITE_IOERR | 1 << 8, "disk I/O error", StorageError, "cannot be read"),
        (sqlite3.SQLITE_CANTOPEN, "unable to open", StorageError, "cannot be read"),
        (sqlite3.SQLITE_PERM, "access denied", StorageError, "cannot be read"),
        (sqlite3.SQLITE_FULL, "database or disk is full", StorageError, "cannot be read"),
        (sqlite3.SQLITE_NOMEM, "out of memory", StorageError, "free memory"),
        (sqlite3.SQLITE_BUSY, "database is locked", IndexLockedError, "in use"),
        (sqlite3.SQLITE_ERROR, "no such function: json_each", LibraryError, "newer SQLite"),
        (sqlite3.SQLITE_ERROR, 'near "->": syntax error', LibraryError, "newer SQLite"),
        (sqlite3.SQLITE_ERROR, "too many SQL variables", MisuseError, "filter is too long"),
        (sqlite3.SQLITE_ERROR, "parser stack overflow", MisuseError, "filter is too long"),
        (sqlite3.SQLITE_TOOBIG, "string or blob too big", MisuseError, "filter is too long"),
    ],
)
def test_errors_of_sqlite(
    whole: Path, code: int | None, text: str, expected: type[Exception], told: str
) -> None:
    with pytest.raises(expected, match=told) as caught, reading(whole / MANIFEST):
        raise of_sqlite(code, text, sqlite3.OperationalError)
    assert ("--overwrite" in str(caught.value)) == (expected is IndexDamagedError)


def test_a_closed_database_is_not_damaged(whole: Path) -> None:
    with pytest.raises(MisuseError, match="open the index again"), reading(whole / MANIFEST):
        raise of_sqlite(None, "Cannot operate on a closed database.", sqlite3.ProgrammingError)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "free memory"),
        (errno.ENOLCK, "has no locks"),
        (errno.EROFS, "permissions"),
        (errno.ENOSPC, "make room"),
    ],
)
def test_what_keeps_a_file_from_being_written(tmp_path: Path, code: int, told: str) -> None:
    with pytest.raises(StorageError, match=told), storage_errors(tmp_path / "x"):
        raise OSError(code, os.strerror(code))


def test_a_writers_database_that_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="ulimit -n"), storage_errors(tmp_path / "x"):
        raise of_sqlite(sqlite3.SQLITE_CANTOPEN, "unable to open", sqlite3.OperationalError)


def test_too_many_open_files(whole: Path) -> None:
    """As the system gives it: as many indexes as there are handles, at every place of opening."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 60
    try:
        for most in range(in_use + 3, in_use + 20):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            opened: list[Index] = []
            with pytest.raises(StorageError, match=r"Too many open files.*ulimit -n"):
                for _ in range(most):
                    opened.append(Index.open(whole))
            for index in opened:
                index.close()
            del opened
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_neighbours_that_cannot_be_read(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "a")
    shutil.copytree(whole, tmp_path / "b")
    with refused(f"b/{MANIFEST}", errno.EACCES):
        path, reason = default_index(tmp_path)
    assert path == tmp_path / "a"
    assert "the only index that can be read" in reason
    assert f"{tmp_path / 'b' / MANIFEST} cannot be read (Permission denied)" in reason
    with refused(MANIFEST, errno.EACCES), pytest.raises(StorageError, match="Permission denied"):
        default_index(tmp_path)


def test_a_folder_that_cannot_be_listed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.iterdir
    copy = Path(shutil.copytree(whole, tmp_path / "i"))

    def iterdir(path: Path) -> Any:
        if path in (copy, tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with Index.open(copy, FakeEncoder()) as index:
        assert index.info()["unfinished"] is None
        assert index.search("w3")
    for command in (lambda: delete_documents(copy, ["d1"]), lambda: default_index(tmp_path)):
        with pytest.raises(StorageError, match=r"cannot be read \(Permission denied\)"):
            command()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL])
def test_a_folder_that_cannot_be_synced(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """One that may be written in and not be read; a file system that syncs no folders."""
    original = os.open

    def open_(path: Any, flags: int, *args: Any) -> int:
        if Path(path).is_dir():
            raise OSError(code, os.strerror(code), str(path))
        return original(path, flags, *args)

    monkeypatch.setattr(os, "open", open_)
    sync_directory(tmp_path)
    with Index.open(whole) as index:
        export_index(index, tmp_path / "x.jsonl")
    with WriterLock(tmp_path):
        pass
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        sync_directory(tmp_path)


NAMES = [
    "#?%&; x",
    "é\u202e日本",
    b"caf\xe9 \xff".decode("utf-8", "surrogateescape"),
    "a\nb\x1b[2J",
]


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_any_bytes(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / "i"
    build_index(directory, fake_documents(80), FakeEncoder(), window=16)
    with Index.open(directory, FakeEncoder()) as index:
        expected = index.search("w3 w4", 9, filter="x = 1")
        assert expected
        assert index.info()["documents"] == 80
        for ending in (".jsonl", ".parquet", ".safetensors", ".npy"):
            assert export_index(index, tmp_path / f"x{ending}").rows == 80
    assert build_index(directory, fake_documents(80), FakeEncoder()).unchanged
    add_documents(directory, fake_documents(90), FakeEncoder())
    delete_documents(directory, [f"d{n}" for n in range(80, 90)])
    compact_index(directory)
    assert verify_index(directory, full=True).ok
    with Index.open(directory, FakeEncoder()) as index:
        assert [hit.id for hit in index.search("w3 w4", 9, filter="x = 1")] == [
            hit.id for hit in expected
        ]


def test_an_index_by_a_relative_path_outlives_chdir(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    with Index.open("i", FakeEncoder()) as index:
        expected = index.search("w3 w4", 9, filter="x = 1"), index.info(), list(index.ids())
        monkeypatch.chdir(tmp_path)
        assert index.info() == expected[1]
        assert index.search("w3 w4", 9, filter="x = 1") == expected[0]
        assert list(index.ids()) == expected[2]
        assert index.verify(full=True).ok
        assert index.vectors(["d1"]).hs.shape == (1, 24)
        assert export_index(index, "x.jsonl").facts["index"] == "i"
        with pytest.raises(MisuseError, match="inside the index"):
            export_index(index, whole / "x.jsonl")


def test_long_texts_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.export import export
    from moee_index.index.store import document_reader

    documents = fake_documents(50)
    build_index(tmp_path / "i", documents, FakeEncoder())
    with Index.open(tmp_path / "i") as index:
        expected = export_index(index, tmp_path / "x.jsonl")
        monkeypatch.setattr(document_reader, "_CHARACTERS", 100)
        monkeypatch.setattr(export, "CHARACTERS", 70)
        found = export_index(index, tmp_path / "y.jsonl")
        assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "y.jsonl").read_bytes()
        assert (found.rows, found.documents) == (expected.rows, expected.documents)
        assert [document.id for document, _ in index.in_order()] == [each.id for each in documents]
    assert verify_index(tmp_path / "i", full=True).ok


def test_rows_of_another_document_are_refused(whole: Path, tmp_path: Path) -> None:
    """Texts of equal length have equal checksums of spans: the tables must agree on the rows."""
    copy = Path(shutil.copytree(whole, tmp_path / "i"))
    path = copy / "segment-0001/documents.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        ((first, other),) = connection.execute(
            "SELECT a.number, b.number FROM documents a, documents b "
            "WHERE a.number < b.number AND length(a.text) = length(b.text) LIMIT 1"
        ).fetchall()
        connection.execute("UPDATE documents SET first = ? WHERE number = ?", (other, first))
    manifest = Manifest.read(copy)
    assert manifest.files["segment-0001/documents.sqlite"].size == path.stat().st_size
    with Index.open(copy) as index, pytest.raises(IndexDamagedError, match="another one"):
        index.vectors([f"d{first}"])


def test_a_version_that_is_replaced_while_it_is_opened(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "i"))
    first, tried = Manifest.read(copy).revision, []

    def opened(manifest: Manifest) -> float:
        tried.append(manifest.revision)
        if manifest.alpha == 1.0:
            save_alpha(copy, 0.5)
            raise IndexDamagedError("a file of the first version is gone")
        if manifest.alpha == 0.5:
            raise IndexDamagedError("a file of the version that is there is gone")
        return manifest.alpha

    with pytest.raises(IndexDamagedError, match="that is there"):
        newest(copy, opened)
    assert tried == [first, first + 1]
    save_alpha(copy, 2.0)
    assert newest(copy, opened) == 2.0


def test_what_a_snapshot_holds_is_opened_beside_writers(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "i"))
    with contextlib.closing(Snapshot.open(copy)) as snapshot:
        reindex(copy, standardize="none")
        assert len(list(snapshot.in_order())) == 79
    with contextlib.closing(Snapshot.open(str(copy))) as snapshot:
        assert snapshot.manifest.standardize == "none"
    with pytest.raises(NotAnIndexError, match="no such directory"):
        Snapshot.open(tmp_path / "nowhere")


def test_mapping_is_what_a_refusal_is_looked_for_with(whole: Path) -> None:
    from moee_index.index.store.reading import obstacle

    assert obstacle(whole / MANIFEST) is None
    assert obstacle(whole / MANIFEST, f"{os.strerror(errno.EMFILE)} while …").errno == errno.EMFILE
    assert isinstance(obstacle(whole / "nowhere"), FileNotFoundError)
    assert mmap.ACCESS_READ
