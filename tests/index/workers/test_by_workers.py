"""Builds and adds by several processes: the same index as by one, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paths import FAST

from fakes.indexes import fake_documents, left_over
from fakes.word_encoder import FakeEncoder, FakeRecipe
from fakes.workers import WINDOW, add_by, build_by, documents_to_add, kill, same
from moee_index import atomic
from moee_index.errors import (
    CorpusError,
    FingerprintMismatchError,
    IndexChangedError,
    LibraryError,
    MisuseError,
    NotAnIndexError,
    StorageError,
    WorkerError,
)
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    change,
    compact_index,
    delete_documents,
    verify_index,
)
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.workers_folder import workers_folder
from moee_index.index.workers.described import check_same
from moee_index.index.workers.start import Workers
from moee_index.index.workers.tasks import Facts
from moee_index.types import Document

KILLS = int(os.environ.get("MOEE_INDEX_KILLS", "2"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where fsync costs nothing, if there is such a place."""
    name = Path(tempfile.mkdtemp(dir=FAST))
    yield name
    shutil.rmtree(name)


def single(directory: Path, documents: list[Document] | None = None, **options: Any) -> Any:
    """The same build by this process."""
    given = fake_documents(200) if documents is None else documents
    return build_index(directory, given, FakeEncoder(), window=WINDOW, **options)


def test_a_build_is_that_of_one_process(folder: Path) -> None:
    told: list[str] = []
    moves: list[tuple[str, int, int | None]] = []
    report = build_by(
        folder / "two", notify=told.append, progress=lambda *each: moves.append(each), total=200
    )
    single(folder / "one")
    same(folder / "one", folder / "two")
    assert (report.read, report.embedded, report.resumed) == (200, 200, 0)
    assert report.texts_per_second > 0 and report.dims == {"hs": 24, "rw": 12}
    manifest = Manifest.read(folder / "two")
    assert len(manifest.segments) == manifest.shards == 2
    assert manifest.computed_on == {"unknown": 200}
    assert [one for one in told if "fake encoder" in one] == ["a fake encoder with 1 threads"]
    embedding = [done for stage, done, total in moves if stage == "embedding"]
    assert embedding == sorted(embedding) and embedding[-1] == 200
    # Started again it changes nothing; another corpus is told by its documents.
    assert build_by(folder / "two").unchanged
    assert single(folder / "two").unchanged
    with pytest.raises(IndexChangedError, match="document 'd199' is missing"):
        build_by(folder / "two", documents=199)
    with pytest.raises(IndexChangedError, match="document 'd200' is new"):
        single(folder / "two", fake_documents(201))


@pytest.mark.parametrize(
    "options",
    [
        {"standardize": "none"},
        {"store": "float16", "language": "en", "standardize": "rw"},
        {"chunk": "8:2"},
        {"index_type": "HNSW8"},
    ],
)
def test_options_of_a_build(folder: Path, options: dict[str, Any]) -> None:
    documents = [
        replace(each, text=f"{each.text} " * 4) if options.get("chunk") else each
        for each in fake_documents(150)
    ]
    build_by(folder / "two", 3, given=documents, **options)
    single(folder / "one", documents, **options)
    first, second = Manifest.read(folder / "one"), Manifest.read(folder / "two")
    names = ("standardize", "store", "language", "chunk", "index_type", "rows", "documents")
    for name in names:
        assert getattr(first, name) == getattr(second, name), name
    assert len(second.segments) == 3
    if "index_type" not in options:
        same(folder / "one", folder / "two")
    assert verify_index(folder / "two", full=True).ok


def test_an_add_is_that_of_one_process(folder: Path) -> None:
    for name in ("one", "two"):
        single(folder / name)
    given = documents_to_add(fake_documents(200))
    ours = add_documents(folder / "one", given, FakeEncoder(), update=True)
    theirs = add_by(folder / "two")
    same(folder / "one", folder / "two")
    counts = ("read", "added", "updated", "unchanged", "removed", "skipped", "documents")
    assert [getattr(ours, name) for name in counts] == [getattr(theirs, name) for name in counts]
    assert theirs.removed == 1 and theirs.updated == 20
    # What is there already starts no segment.
    again = add_by(folder / "two", given=fake_documents(200)[60:70])
    assert (again.added, again.unchanged) == (0, 10)
    delete_documents(folder / "two", ["nd3"])
    compact_index(folder / "two")
    assert verify_index(folder / "two", full=True).documents == theirs.documents - 1


def test_an_approximate_index(folder: Path) -> None:
    documents = fake_documents(900)
    build_by(folder / "two", given=documents, index_type="approx", recall=0.9)
    manifest = Manifest.read(folder / "two")
    assert manifest.approximation is not None and manifest.approximation.wanted == 0.9
    assert all(segment.candidates is not None for segment in manifest.segments)
    assert verify_index(folder / "two", full=True).problems == []
    add_by(folder / "two", given=documents_to_add(documents))
    assert all(entry.candidates is not None for entry in Manifest.read(folder / "two").segments)
    assert verify_index(folder / "two", full=True).problems == []


def test_few_documents_and_none(folder: Path) -> None:
    build_by(folder / "few", 4, given=fake_documents(3), standardize="none")
    assert verify_index(folder / "few", full=True).documents == 3
    with pytest.raises(CorpusError, match="holds no document to index"):
        build_by(folder / "none", given=[Document("a", " ")])
    assert not (folder / "none").exists()


def test_bad_lines_and_duplicates(folder: Path) -> None:
    documents = [*fake_documents(60), replace(fake_documents(60)[7], source="c.jsonl:61")]
    with pytest.raises(CorpusError, match=r"c\.jsonl:61: id 'd7' was already used \(c\.jsonl:8\)"):
        build_by(folder / "i", given=documents)

    def read(reject: Any) -> Iterator[Document]:
        yield from documents
        reject("c.jsonl:62", "{", "no JSON")

    report = build_by(folder / "i", given=read, on_bad="skip")
    assert (report.read, report.embedded, report.rejected) == (62, 60, 2)
    lines = (folder / "i" / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == {"c.jsonl:62", "c.jsonl:61"}
    assert build_by(folder / "i", given=read, on_bad="skip").unchanged


def test_a_name_of_a_passage_meets_its_document(folder: Path) -> None:
    documents = [*fake_documents(20), Document("d3#2", "w1 w2")]
    with pytest.raises(CorpusError, match="is the name of a passage of document 'd3' too"):
        build_by(folder / "i", given=documents, chunk="8")


# What dies, and what goes on


def test_a_worker_that_dies_is_started_again(folder: Path) -> None:
    alive = folder / "alive"
    alive.touch()
    told: list[str] = []
    recipe = FakeRecipe(dies_at=3, alive=alive, last_words="out of\nluck")
    build_by(folder / "two", recipe=recipe, notify=told.append)
    single(folder / "one")
    same(folder / "one", folder / "two")
    again = [one for one in told if one.endswith("started again")]
    assert len(again) == 1
    assert "killed by SIGKILL" in again[0] and "it said last: luck" in again[0]


def test_a_worker_that_always_dies_is_an_error(folder: Path) -> None:
    with pytest.raises(WorkerError, match=r"worker \d died 4 times at shard \d .*same command"):
        build_by(folder / "two", recipe=FakeRecipe(dies_at=2))
    with pytest.raises(IndexChangedError, match="was begun with --workers"):
        single(folder / "two")
    with pytest.raises(NotAnIndexError, match="holds an unfinished build"):
        Index.open(folder / "two")
    told: list[str] = []
    moved = [replace(each, source=f"other/{each.source}") for each in fake_documents(200)]
    build_by(folder / "two", given=moved, notify=told.append)
    assert "resuming an interrupted build" in told
    single(folder / "one")
    same(folder / "one", folder / "two")


def test_one_process_and_several_do_not_go_on_with_each_other(folder: Path) -> None:
    class Interrupted(BaseException):
        pass

    def stop(number: int) -> None:
        if number == 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        build_index(folder / "i", fake_documents(200), FakeEncoder(on_batch=stop), window=WINDOW)
    with pytest.raises(IndexChangedError, match="was begun without --workers"):
        build_by(folder / "i")
    told: list[str] = []
    build_by(folder / "i", overwrite=True, notify=told.append)
    assert any("without --workers" in one for one in told)
    with pytest.raises(WorkerError):
        add_by(folder / "i", recipe=FakeRecipe(dies_at=2))
    with Index.open(folder / "i") as opened:
        left = opened.info()["unfinished"]
    assert left["purpose"] == "add" and left["bytes"] > 10_000 and left["documents"] >= 0
    told.clear()
    given = documents_to_add(fake_documents(200))
    add_documents(folder / "i", given, FakeEncoder(), update=True, notify=told.append)
    assert "starting over: the interrupted run was begun with --workers" in told
    single(folder / "one")
    add_documents(folder / "one", given, FakeEncoder(), update=True)
    same(folder / "one", folder / "i")


def test_another_corpus_after_an_interruption(folder: Path) -> None:
    with pytest.raises(WorkerError):
        build_by(folder / "i", recipe=FakeRecipe(dies_at=4))
    changed = [*fake_documents(199), Document("d199", "another text")]
    with pytest.raises(IndexChangedError, match="not the one that the interrupted build"):
        build_by(folder / "i", given=changed)
    with pytest.raises(IndexChangedError, match=r"begun with standardize 'auto' .now 'rw'."):
        build_by(folder / "i", standardize="rw")
    build_by(folder / "i", given=changed, overwrite=True)
    single(folder / "one", changed)
    same(folder / "one", folder / "i")


@pytest.mark.parametrize("command", ["build", "add"])
@pytest.mark.parametrize("what", ["worker", "driver"])
def test_killed_at_random_moments(folder: Path, command: str, what: str) -> None:
    single(folder / "one")
    if command == "add":
        add_documents(
            folder / "one", documents_to_add(fake_documents(200)), FakeEncoder(), update=True
        )
    for number in range(KILLS):
        index = folder / f"{number}"
        if command == "add":
            single(index)
        kill(what, command, index, random.uniform(0.0, 0.5), 0.01)
        if what == "driver":
            (build_by if command == "build" else add_by)(index)
        same(folder / "one", index)


def test_killed_between_placing_and_publishing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments are in place, the manifest is not: the next run takes them back and embeds none."""

    class Killed(BaseException):
        pass

    def write(*_: object) -> None:
        raise Killed

    for command in (build_by, add_by):
        if command is add_by:
            single(folder / "i")
        with monkeypatch.context() as patch:
            patch.setattr(Manifest, "write", write)
            with pytest.raises(Killed):
                command(folder / "i")
        assert not list(workers_folder(folder / "i").glob("done-*"))
        told: list[str] = []
        report = command(folder / "i", recipe=FakeRecipe(dies_at=1), notify=told.append)
        assert not any("started again" in one for one in told)
        assert report.texts_per_second == 0
        assert left_over(folder / "i") == set()
        assert verify_index(folder / "i", full=True).ok
        shutil.rmtree(folder / "i")


# Room, and other disks


def test_a_shard_that_cannot_be_put_in_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across file systems it is copied: no room there is one clear error, and then goes on."""
    source, target = folder / "source", folder / "target" / "done-0001"
    source.mkdir()
    target.parent.mkdir()
    (source / "a").write_bytes(b"1" * 1000)
    (source / "b").write_bytes(b"2" * 1000)
    copied: list[str] = []
    original_rename = Path.rename

    def rename(path: Path, other: Path) -> Path:
        if path == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        copied.append(path.name)
        return original_rename(path, other)

    monkeypatch.setattr(Path, "rename", rename)
    original = atomic.sync_file

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "sync_file", full)
    with pytest.raises(StorageError, match=r"disk is full .* start the same command again"):
        atomic.move_directory(source, target)
    assert list(target.parent.iterdir()) == [] and len(list(source.iterdir())) == 2
    monkeypatch.setattr(atomic, "sync_file", original)
    atomic.move_directory(source, target)
    assert not source.exists() and (target / "b").read_bytes() == b"2" * 1000
    assert [name.startswith("done-0001.") and name.endswith(".tmp") for name in copied] == [True]


def test_full_disk(mounted: Path, folder: Path) -> None:
    """With ever more room, until it is enough: what was finished stays."""
    single(folder / "one")
    failed = 0
    for pages in (4, 20, 45, 80, 400):
        ballast = mounted / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(mounted).free - 4096 * pages))
        try:
            build_by(mounted / "i")
        except StorageError as error:
            failed += 1
            assert "\n" not in str(error)
            assert "full" in str(error) and "start the same command again" in str(error)
        else:
            break
        finally:
            ballast.unlink()
    assert failed >= 2
    same(folder / "one", mounted / "i")


def test_large_shards_are_not_joined_by_one_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "_LARGE", 30)
    build_by(folder / "i", 4)
    add_documents(folder / "i", [Document("new", "w1 w2")], FakeEncoder())
    rows = [entry.rows for entry in Manifest.read(folder / "i").segments]
    assert len(rows) == 5 and rows[-1] == 1
    monkeypatch.setattr(change, "_LARGE", 300)
    add_documents(folder / "i", [Document("newer", "w1 w2")], FakeEncoder())
    assert [entry.rows for entry in Manifest.read(folder / "i").segments] == [202]


# Wrong calls


def test_wrong_calls(folder: Path) -> None:
    documents = fake_documents(3)
    for count in (0, -1, True, "2", 1.5):
        with pytest.raises(MisuseError, match=r"workers is .* a whole number, 1 or more"):
            build_index(folder / "i", documents, FakeRecipe(), workers=count)  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match=r"neither their number nor a Ray cluster"):
        Workers()
    with pytest.raises(MisuseError, match="of type FakeEncoder cannot be told to other processes"):
        build_index(folder / "i", documents, FakeEncoder(), workers=2)
    with pytest.raises(MisuseError, match="an encoder is needed, not FakeRecipe"):
        build_index(folder / "i", documents, FakeRecipe())  # without workers
    assert not (folder / "i").exists()


def test_workers_with_different_models() -> None:
    facts = Facts(FakeEncoder().spec, 20, 0.0, None, None, "cpu", "a", "1")
    other = replace(facts, spec=replace(facts.spec, fingerprint="0" * 64), host="b")
    with pytest.raises(FingerprintMismatchError, match="on b the model is not the one of a: ano"):
        check_same(facts, other)
    with pytest.raises(LibraryError, match="a has moee-index 1, b has 2; install the same"):
        check_same(facts, replace(facts, program="2", host="b"))
    check_same(facts, replace(facts, host="b", hardware="cuda float16"))


def test_an_error_of_a_worker_is_the_drivers(folder: Path) -> None:
    with pytest.raises(MisuseError, match="over --max-tokens"):
        build_by(folder / "i", documents=20, chunk="64")
    assert not (folder / "i").exists()
