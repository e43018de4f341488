"""Index directories that are damaged, moved, read-only, on full disks, or no index at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest

from fakes.indexes import build_limited, fake_documents, index_bytes, read_for_ever
from fakes.word_encoder import FakeEncoder
from moee_index.atomic import replacing, storage_errors
from moee_index.errors import (
    IndexDamagedError,
    IndexLockedError,
    MoeeIndexError,
    NotAnIndexError,
    StorageError,
)
from moee_index.index import Index, build_index, default_index, verify_index
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest, _checksum

FILES = [
    "standardizer-0001.safetensors",
    *(f"segment-0001/{name}" for name in (
        "documents.sqlite", "fields.sqlite", "hs.f32", "rw.f32", "rows.crc", "norms-0001.f32",
        "hs-0001.faiss", "rw-0001.faiss", "hs-0001.crc", "rw-0001.crc",
        "lexical-0001.postings", "lexical-0001.crc",
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        build_index(Path(folder) / "i", fake_documents(80), FakeEncoder())
        yield Path(folder) / "i"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Alter a manifest and give it the right checksum again."""
    content = json.loads((directory / MANIFEST).read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = _checksum(content)
    (directory / MANIFEST).write_text(json.dumps(content))


def test_manifest_reads_back_as_written(whole: Path) -> None:
    manifest = Manifest.read(whole)
    assert Manifest.read(whole) == manifest
    assert manifest.to_bytes() == (whole / MANIFEST).read_bytes()
    assert manifest.documents == 80
    assert set(manifest.files) == set(FILES)
    assert all(error < 5e-4 for _, error in manifest.segments[0].codes_error)


def test_info_has_the_fields_of_the_interface(whole: Path) -> None:
    with Index.open(whole) as index:
        info = index.info()
    assert list(info) == [
        "documents", "dims", "model", "prompt", "query_prompt", "rw", "pooling", "max_tokens",
        "standardize", "index_type", "alpha", "bytes", "created", "version", "changed", "revision",
        "rows", "chunk", "segments", "deleted", "store", "fields", "disk", "counts", "lexical",
        "lexical_weight", "drift", "unfinished",
    ]  # fmt: skip
    assert list(info["model"]) == ["name", "path", "revision", "fingerprint", "bits", "bytes"]
    assert info["bytes"] == sum((whole / name).stat().st_size for name in FILES)
    json.dumps(info)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "empty"])
def test_files_of_another_size_are_named(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": content[:-9], "longer": content + b"\0", "empty": b""}[damage]
        )
    with pytest.raises(IndexDamagedError, match=rf"{name}.*--overwrite"):
        Index.open(copy)
    for full in (False, True):
        report = verify_index(copy, full=full)
        assert not report.ok
        assert all(name in problem for problem in report.problems)


def answers(directory: Path) -> list[Any]:
    """What queries of all kinds answer."""
    with Index.open(directory, FakeEncoder()) as index:
        return [
            *(index.search("w3 w4", 80, method=method) for method in ("sum", "concat", "hs", "rw")),
            index.search("w3 w4", 5, filter="x = 1"),
            index.search("w3 w4", 80, lexical=0.4),
            index.search("w3 w4", 80, lexical=1),
            index.documents(["d3", "d1", "nowhere"]),
            index.vectors(["d3"]).hs.tobytes(),
        ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named_by_a_full_check(copy: Path, name: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(3)
    expected = answers(copy)
    refused = 0
    for place in (0, *rng.integers(0, len(content), 50)):
        content[place] ^= 0x55
        path.write_bytes(content)
        report = verify_index(copy, full=True)
        assert any(f"{name} is altered" in problem for problem in report.problems)
        # A query refuses or is unaffected: never another answer.
        try:
            assert answers(copy) == expected
        except MoeeIndexError as error:
            assert "\n" not in str(error)
            refused += 1
        content[place] ^= 0x55
    # Of SQLite's pages an answer reads few; what any other file holds is looked at whole.
    assert refused == 51 or name.endswith(".sqlite")
    path.write_bytes(content)
    assert verify_index(copy, full=True).ok


def test_flipped_bytes_in_the_manifest(copy: Path) -> None:
    path = copy / MANIFEST
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(0, len(content), 60):
        before = content[place]
        content[place] = before ^ 0x15
        path.write_bytes(content)
        try:
            Index.open(copy).close()
        except (IndexDamagedError, NotAnIndexError) as error:
            assert MANIFEST in str(error)
            assert "\n" not in str(error)
        else:
            # Only blanks between values may differ.
            assert chr(before).isspace()
        content[place] = before


def test_manifests_of_all_kinds(copy: Path) -> None:
    path = copy / MANIFEST
    for content, told in (
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": "moee-index", "version": 1}', "an earlier moee-index.*--overwrite"),
        (b'{"format": "moee-index", "version": 6}', "later moee-index.*upgrade"),
        (b'{"format": "moee-index", "version": "x"}', "version is 'x'"),
        (b'{"format": "moee-index", "version": 2}', "checksum"),
        (b'{"format": "moee-index", "version": 3}', "checksum"),
    ):
        path.write_bytes(content)
        with pytest.raises(IndexDamagedError, match=told):
            Index.open(copy)
    path.write_text('{"name": "some web page", "version": "1"}')
    with pytest.raises(NotAnIndexError, match="does not belong to moee-index"):
        Index.open(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("spec"),
        lambda content: content.update(spec={"model": 3}),
        lambda content: content.update(files=3),
        lambda content: content["segments"][0].update(name="../elsewhere"),
        lambda content: content["segments"][0].update(name="/etc"),
        lambda content: content["files"].update({"../x": {"size": 1, "sha256": ""}}),
        lambda content: content["files"].clear(),
        lambda content: content["segments"][0].update(documents=79),
        lambda content: content["segments"][0].update(documents="80"),
        lambda content: content["segments"][0].update(deleted_rows=3),
        lambda content: content["segments"][0].update(rows=0),
        lambda content: content.update(standardize="rw"),
        lambda content: content.update(store="int8"),
        lambda content: content.update(index_type="flat"),
        lambda content: content.update(alpha="1"),
        lambda content: content["spec"].update(hs_dim=25),
        lambda content: content.update(language=None),
        lambda content: content.update(language=3),
        lambda content: content.update(lexical_weight=1.5),
        lambda content: content.update(lexical_weight="0.4"),
        lambda content: content.update(tuned=1),
        lambda content: content["segments"][0].update(lexical=None),
        lambda content: content["segments"][0].update(lexical={"revision": "1", "words": ""}),
        lambda content: content["segments"][0].update(lexical={"revision": 1}),
        lambda content: content["segments"][0].update(lexical="lexical-0001"),
    ],
)
def test_manifests_that_lie(copy: Path, change: Any) -> None:
    """Right checksum, wrong content: as another program would write it."""
    change_manifest(copy, change)
    with pytest.raises(IndexDamagedError) as caught:
        Index.open(copy, FakeEncoder())
    assert "\n" not in str(caught.value)


def test_faiss_files_swapped(copy: Path) -> None:
    """A FAISS file of the right size that is another index altogether."""
    import faiss

    path = copy / "segment-0001/hs-0001.faiss"
    size = path.stat().st_size
    for factory in ("Flat", "SQ8"):
        index = faiss.index_factory(24, factory, faiss.METRIC_L2)
        index.train(np.eye(80, 24, dtype=np.float32))
        index.add(np.eye(80, 24, dtype=np.float32))
        faiss.write_index(index, str(path))
        content = path.read_bytes()[:size]
        path.write_bytes(content + bytes(size - len(content)))
        with pytest.raises(IndexDamagedError, match=r"hs-0001\.faiss"):
            Index.open(copy)


def test_directories_that_are_no_index(tmp_path: Path) -> None:
    for path, told in (
        (tmp_path / "nowhere", "no such directory"),
        (tmp_path, "is not an index"),
    ):
        for action in (Index.open, verify_index):
            with pytest.raises(NotAnIndexError, match=told):
                action(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAnIndexError):
        Index.open(tmp_path / "file")


def test_default_index(whole: Path, tmp_path: Path) -> None:
    for directory in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotAnIndexError, match="there is no index"):
            default_index(directory)
    (tmp_path / "unfinished/segment-0001").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    shutil.copytree(whole, tmp_path / "b")
    assert default_index(tmp_path) == (tmp_path / "b", f"the only index in {tmp_path}")
    shutil.copytree(whole, tmp_path / "a")
    change_manifest(tmp_path / "a", lambda content: content.update(created="2999-01-01"))
    path, reason = default_index(tmp_path)
    assert path == tmp_path / "a"
    assert "newest of 2" in reason


def test_moved_index(copy: Path, tmp_path: Path) -> None:
    with Index.open(copy, FakeEncoder()) as index:
        expected = index.search("w3 w4", 80)
    moved = copy.rename(tmp_path / "größer # und ? % anders")
    with Index.open(moved, FakeEncoder()) as index:
        assert index.search("w3 w4", 80) == expected
    assert verify_index(moved, full=True).ok
    assert build_index(moved, fake_documents(80), FakeEncoder()).unchanged
    assert build_index(moved, fake_documents(80), FakeEncoder(), overwrite=True).embedded == 80


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small tmpfs with given options; skips where that is forbidden."""
    point = tmp_path / "mounted"
    point.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        return point

    yield mount
    subprocess.run(["umount", "-l", str(point)], capture_output=True)


def test_read_only_directory(whole: Path, mounted: Callable[[str], Path]) -> None:
    point = mounted("size=8m")
    shutil.copytree(whole, point / "i")
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    with Index.open(point / "i", FakeEncoder()) as index:
        assert len(index.search("w3 w4", 5)) == 5
    assert verify_index(point / "i", full=True).ok
    assert build_index(point / "i", fake_documents(80), FakeEncoder()).unchanged
    with pytest.raises(StorageError, match=r"cannot write .* permissions"):
        build_index(point / "i", fake_documents(80), FakeEncoder(), overwrite=True)
    with pytest.raises(StorageError, match="cannot write"):
        build_index(point / "j", fake_documents(80), FakeEncoder())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97])
def test_full_disk(mounted: Callable[[str], Path], share: float) -> None:
    """Room for a part of the index: the disk fills in one stage of the build or another."""
    point = mounted("size=2m")
    documents = fake_documents(400)
    empty = shutil.disk_usage(point).free
    build_index(point / "whole", documents, FakeEncoder(), window=64)
    takes = empty - shutil.disk_usage(point).free
    expected = index_bytes(point / "whole")
    shutil.rmtree(point / "whole")
    build_index(point / "i", documents[:20], FakeEncoder())
    old = index_bytes(point / "i")
    free = shutil.disk_usage(point).free
    (point / "ballast").write_bytes(bytes(free - int(takes * share)))
    with pytest.raises(StorageError) as caught:
        build_index(point / "i", documents, FakeEncoder(), overwrite=True, window=64)
    assert "\n" not in str(caught.value)
    assert "full" in str(caught.value)
    assert "start the same command again" in str(caught.value)
    assert verify_index(point / "i", full=True).ok
    assert Manifest.read(point / "i").documents == 20
    (point / "ballast").unlink()
    build_index(point / "i", documents, FakeEncoder(), overwrite=True, window=64)
    assert index_bytes(point / "i") == expected != old


def test_size_limit(tmp_path: Path) -> None:
    """As a full disk where nothing can be mounted: RLIMIT_FSIZE, in a process of its own."""
    context = forks.context()
    answers = context.Queue()
    process = context.Process(target=build_limited, args=(str(tmp_path / "i"), 30_000, answers))
    process.start()
    kind, message = answers.get(timeout=60)
    process.join()
    assert kind == "StorageError"
    assert "start the same command again" in message
    build_index(tmp_path / "i", fake_documents(400), FakeEncoder(), window=32)
    assert verify_index(tmp_path / "i", full=True).ok


def test_readers_never_see_an_overwrite(tmp_path: Path) -> None:
    """One process opens and searches all the time while another overwrites."""
    documents = fake_documents(70)
    build_index(tmp_path / "i", documents, FakeEncoder())
    context = forks.context()
    answers, stop, opened = context.Queue(), context.Event(), context.Value("i")
    process = context.Process(
        target=read_for_ever, args=(str(tmp_path / "i"), stop, answers, opened)
    )
    process.start()
    assert answers.get(timeout=60) == "ready"
    overwritten, begun = 0, time.monotonic()
    while overwritten < 5 or opened.value <= 5:
        assert time.monotonic() < begun + 120, "the reader does not get on"
        build_index(tmp_path / "i", documents, FakeEncoder(), overwrite=True)
        overwritten += 1
    stop.set()
    errors = answers.get(timeout=60)
    process.join()
    assert errors == []


def test_replacing_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "choose another --index"),
        (errno.EACCES, "permissions"),
        (errno.EIO, "check the disk"),
    ],
)
def test_disk_errors_say_what_to_do(code: int, told: str) -> None:
    with pytest.raises(StorageError, match=told), storage_errors(Path("x")):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("FULL", StorageError, "disk is full"),
        ("READONLY_DBMOVED", StorageError, "permissions"),
        ("CANTOPEN", StorageError, "permissions"),
        ("IOERR_FSYNC", StorageError, "check the disk"),
        ("BUSY_TIMEOUT", IndexLockedError, "another program"),
        ("CORRUPT_INDEX", IndexDamagedError, "is damaged"),
        ("NOTADB", IndexDamagedError, "is damaged"),
    ],
)
def test_errors_of_sqlite_are_told_by_their_number(
    name: str, kind: type[Exception], told: str
) -> None:
    error = sqlite3.OperationalError("put another way")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    with pytest.raises(kind, match=told), storage_errors(Path("x")):
        raise error


def test_errors_of_sqlite_have_numbers(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    with pytest.raises(StorageError, match="permissions"), storage_errors(path):
        sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("SELECT 1")
    path.write_bytes(b"no database at all" * 99)
    with pytest.raises(IndexDamagedError), storage_errors(path):
        sqlite3.connect(path).execute("SELECT * FROM documents")
