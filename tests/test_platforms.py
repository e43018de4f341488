"""What other systems lack is taken away here: Windows' and macOS' ways of locking, writing at a
place, syncing and replacing."""

from __future__ import annotations

import builtins
import errno
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from fakes.indexes import FakeEncoder, fake_documents
from moee_index import atomic, backends
from moee_index.errors import IndexLockedError, ModelError, StorageError
from moee_index.index import Index, build_index
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.weight_file import Draft


@pytest.fixture
def without_fcntl(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Windows: no fcntl, but msvcrt. Returns how often each of its calls was made."""
    calls = {"locking": 0}
    locked: set[tuple[int, int]] = set()

    def locking(handle: int, mode: int, count: int) -> None:
        calls["locking"] += 1
        assert (mode, count) == (2, 1)
        there = os.fstat(handle)
        if (there.st_dev, there.st_ino) in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        locked.add((there.st_dev, there.st_ino))

    module = ModuleType("msvcrt")
    module.LK_NBLCK = 2  # type: ignore[attr-defined]
    module.locking = locking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    original = builtins.__import__

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "fcntl":
            raise ImportError("no fcntl on Windows")
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)
    return calls


def test_one_writer_at_a_time_without_fcntl(tmp_path: Path, without_fcntl: dict[str, int]) -> None:
    with (
        atomic.WriterLock(tmp_path),
        pytest.raises(IndexLockedError, match="another process is writing"),
        atomic.WriterLock(tmp_path),
    ):
        pass
    assert without_fcntl["locking"] == 2


def test_an_index_is_the_same_without_reading_and_writing_at_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = fake_documents(40)
    build_index(tmp_path / "with", documents, FakeEncoder())
    for name in ("pread", "pwrite", "O_CLOEXEC", "posix_fallocate"):
        monkeypatch.delattr(os, name, raising=False)
    build_index(tmp_path / "without", documents, FakeEncoder())
    (wanted,), (found,) = (
        [file.read_bytes() for file in sorted(tmp_path.glob(f"{name}/*/hs.f32"))]
        for name in ("with", "without")
    )
    assert found == wanted
    with Index.open(tmp_path / "without", FakeEncoder()) as index:
        assert index.search("w3", 5)


def test_a_weight_file_is_reserved_without_posix_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with Draft(tmp_path / "entry", {"w": ((3, 5), torch.float32)}) as draft:
        draft.tensors["w"].copy_(torch.ones(3, 5))
        assert draft.file.stat().st_size > 60
    usage = type("Usage", (), {"free": 3})()
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(StorageError, match="No space left"):
        Draft(tmp_path / "other", {"w": ((3, 5), torch.float32)})


def test_macos_syncs_to_the_disk_and_not_to_the_drives_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    synced: list[int] = []
    refuse = False

    def call(handle: int, command: int) -> int:
        synced.append(command)
        if refuse:
            raise OSError(errno.ENOTSUP, "not supported")
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", call)
    plain: list[int] = []
    monkeypatch.setattr(os, "fsync", plain.append)
    atomic.write_file(tmp_path / "a", b"x")
    assert synced and set(synced) == {51} and not plain
    refuse = True
    atomic.write_file(tmp_path / "a", b"y")
    assert len(plain) == len(synced) / 2


def test_a_file_that_is_being_read_is_replaced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 3
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal refused
        if refused > 0:
            refused -= 1
            raise PermissionError(errno.EACCES, "in use")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StorageError, match="in use"):
        atomic.write_file(tmp_path / "a", b"x")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(atomic, "_PAUSE", 0)
    monkeypatch.setattr(atomic.os, "name", "nt")
    refused = 3
    atomic._replace(_written(tmp_path / "b.tmp"), tmp_path / "b")
    refused = 10**6
    with pytest.raises(PermissionError):
        atomic._replace(_written(tmp_path / "c.tmp"), tmp_path / "c")
    monkeypatch.undo()
    assert (tmp_path / "b").read_bytes() == b"x"


def _written(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_directories_are_not_opened_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "a directory")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="a directory"):
        atomic.sync_directory(tmp_path)
    monkeypatch.setattr(atomic.os, "name", "nt")
    atomic.sync_directory(tmp_path)


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        (GatedRepoError, 403, r"is gated: accept its terms on https://huggingface.co/some/model"),
        (RepositoryNotFoundError, 401, r"if the model is private, log in with `hf auth login`"),
    ],
)
def test_a_model_that_asks_for_a_login_says_so(
    monkeypatch: pytest.MonkeyPatch, kind: Any, status: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        response = SimpleNamespace(headers={}, request=None, status_code=status)
        raise kind(f"{status} Client Error. (Request ID: Root=1)", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=said) as caught:
        find_checkpoint("some/model")
    assert "Client Error" not in str(caught.value)


def test_two_openmp_runtimes_live_side_by_side_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMP_DUPLICATE_LIB_OK", "to be restored")
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK")
    threads = backends.load_faiss().omp_get_max_threads()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        faiss = backends.load_faiss.__wrapped__()
        assert os.environ["KMP_DUPLICATE_LIB_OK"] == "TRUE"
        assert faiss.omp_get_max_threads() == 1
    finally:
        backends.load_faiss().omp_set_num_threads(threads)
