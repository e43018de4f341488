"""Damage to every small file of an index, as hypothesis draws it: answers as before, or one line.

Nothing hangs, no length that a file lies about is made room for, and nothing is called unexpected.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import fake_documents, interrupt_at
from fakes.mutations import damaged, mutated_json, mutated_safetensors
from fakes.word_encoder import FakeEncoder
from moee_index.atomic import sha256_file
from moee_index.errors import MoeeIndexError
from moee_index.index import Index, build_index, delete_documents, verify_index
from moee_index.index.store.layout import BUILDING, MANIFEST
from moee_index.index.store.manifest import _checksum

# Many times what reading such an index takes.
_ROOM = 1 << 30
# Cases: FUZZ=50 tries fifty times as many.
_MANY = int(os.environ.get("FUZZ", "1"))
SMALL = [
    "standardizer-0001.safetensors",
    *(f"segment-0001/{name}" for name in (
        "norms-0001.f32", "hs-0001.crc", "rw-0001.crc", "rows.crc", "deleted-0002.bits",
        "hs-0001.faiss", "documents.sqlite", "fields.sqlite", "hs.f32",
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("damage") / "i"
    build_index(directory, fake_documents(80), FakeEncoder())
    delete_documents(directory, ["d3", "d11"])
    return directory


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("damage") / "u"
    with pytest.raises(BaseException):  # noqa: B017
        build_index(directory, fake_documents(80), interrupt_at(9), window=16)
    return directory


def answers(directory: Path) -> Any:
    with Index.open(directory, FakeEncoder()) as index:
        found = [
            *(index.search("w3 w4", 9, method=method) for method in ("sum", "concat", "rw")),
            index.search("w3 w4", 5, filter="x = 1"),
            index.documents(["d1", "d2", "nowhere"]),
            index.vectors(["d1"]).hs.tobytes(),
        ]
        # The default weight and what `info` says are the manifest's alone, which its checksum
        # guards: who writes another number with the right checksum has changed it.
        alpha = index.alpha
        json.dumps(index.info())
    return found, alpha


def tried(directory: Path, call: Callable[[Path], Any]) -> Any:
    """The call's answer; None where it was refused in one line."""
    try:
        return call(directory)
    except MoeeIndexError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1500
        return None


def replaced(whole: Path, name: str, content: bytes) -> Path:
    """The index with another file; the others are the same files."""
    directory = whole.parent / f"{whole.name}-damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(whole, directory, copy_function=os.link)
    (directory / name).unlink()
    (directory / name).write_bytes(content)
    return directory


def listed(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """A manifest after a change, with the right checksum."""
    manifest = json.loads(content)
    del manifest["sha256"]
    changed = change(manifest)
    if isinstance(changed, dict):
        changed["sha256"] = _checksum(changed)
    return json.dumps(changed).encode()


@pytest.fixture(scope="module")
def limited() -> Any:
    """A request for a huge piece of memory fails, rather than take the machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("limited")
class TestDamage:
    @settings(max_examples=60 * _MANY)
    @given(data=st.data())
    def test_manifests(self, whole: Path, data: st.DataObject) -> None:
        expected = answers(whole)
        content = (whole / MANIFEST).read_bytes()
        directory = replaced(whole, MANIFEST, data.draw(damaged(content)))
        for call in (answers, lambda place: verify_index(place, full=True).ok):
            assert tried(directory, call) in (None, True, False, expected)

    @settings(max_examples=150 * _MANY)
    @given(data=st.data())
    def test_manifests_that_lie(self, whole: Path, data: st.DataObject) -> None:
        """Another content with the right checksum: an answer is of the right form, or none."""
        original = (whole / MANIFEST).read_bytes()
        content = listed(original, lambda manifest: data.draw(mutated_json(manifest)))
        directory = replaced(whole, MANIFEST, content)
        tried(directory, answers)
        tried(directory, lambda place: verify_index(place).ok)

    @pytest.mark.parametrize("name", SMALL)
    def test_files(self, whole: Path, name: str) -> None:
        expected = answers(whole)
        content = (whole / name).read_bytes()

        @settings(max_examples=12 * _MANY)
        @given(changed=damaged(content))
        def check(changed: bytes) -> None:
            directory = replaced(whole, name, changed)
            assert tried(directory, answers) in (None, expected)
            report = tried(directory, lambda place: verify_index(place, full=True))
            assert changed == content or not report.ok

        check()

    @pytest.mark.parametrize("name", SMALL)
    def test_files_whose_checksum_was_made_anew(self, whole: Path, name: str) -> None:
        """As another program would write it: whatever it holds, reading it is safe."""
        content = (whole / name).read_bytes()
        safetensors = name.endswith(".safetensors")
        changes = [damaged(content), *([mutated_safetensors(content)] if safetensors else [])]

        @settings(max_examples=(60 if safetensors else 12) * _MANY)
        @given(changed=st.one_of(changes))
        def check(changed: bytes) -> None:
            directory = replaced(whole, name, changed)

            def change(manifest: Any) -> Any:
                path = directory / name
                manifest["files"][name] = {
                    "size": path.stat().st_size, "sha256": sha256_file(path),
                }  # fmt: skip
                return manifest

            made = listed((whole / MANIFEST).read_bytes(), change)
            (directory / MANIFEST).unlink()
            (directory / MANIFEST).write_bytes(made)
            tried(directory, answers)
            tried(directory, lambda place: verify_index(place, full=True))

        check()

    @settings(max_examples=20 * _MANY)
    @given(data=st.data())
    def test_settings_of_an_unfinished_build(self, unfinished: Path, data: st.DataObject) -> None:
        (folder,) = unfinished.glob("segment-*")
        name = f"{folder.name}/{BUILDING}"
        content = (unfinished / name).read_bytes()
        lied = mutated_json(json.loads(content)).map(lambda value: json.dumps(value).encode())
        directory = replaced(unfinished, name, data.draw(st.one_of(damaged(content), lied)))
        for path in directory.rglob("*"):  # what is resumed is written to
            if path.is_file():
                content = path.read_bytes()
                path.unlink()
                path.write_bytes(content)
        tried(directory, Index.open)
        tried(directory, lambda place: build_index(place, fake_documents(80), FakeEncoder()))
        if tried(directory, lambda place: verify_index(place, full=True).ok) is None:
            build_index(directory, fake_documents(80), FakeEncoder(), overwrite=True)
            assert verify_index(directory, full=True).ok


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("segments", 0, "rows"), 2**60),
        (("segments", 0, "documents"), 2**60),
        (("spec", "hs_dim"), 2**60),
        (("spec", "rw_dim"), -1),
        (("segments", 0, "deleted_rows"), 2**60),
        (("segments", 0, "codes_error", "hs"), float("nan")),
        (("alpha",), float("inf")),
        (("window",), 0),
        (("revision",), "1"),
        (("counts", "read"), "80"),
        (("created",), "\ud800"),
        (("chunk",), "7"),
        (("spec", "prompt"), None),
        (("files", "segment-0001/hs.f32", "size"), True),
    ],
)
def test_values_that_no_manifest_of_ours_holds(whole: Path, where: Any, value: Any) -> None:
    def change(manifest: Any) -> Any:
        holder = manifest
        for key in where[:-1]:
            holder = holder[key]
        holder[where[-1]] = value
        return manifest

    content = listed((whole / MANIFEST).read_bytes(), change)
    directory = replaced(whole, MANIFEST, content)
    with pytest.raises(MoeeIndexError) as caught:
        Index.open(directory)
    assert "damaged" in str(caught.value) or "instead of" in str(caught.value)
