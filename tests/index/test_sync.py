"""sync: an index becomes its corpus, embeds what is new and nothing else, and loses nothing that it
cannot be sure of."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from commands import one_line_error, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import Interrupted, interrupt_at
from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index.errors import CorpusError, FingerprintMismatchError, MisuseError
from moee_index.index import Index, build_index, verify_index
from moee_index.index.store.manifest import Manifest
from moee_index.index.sync import plan_sync, sync_index
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document

Held = dict[str, tuple[str, int]]
CORPORA = st.dictionaries(
    st.sampled_from([f"d{number}" for number in range(12)]),
    st.tuples(st.sampled_from(["w1 w2", "w3", "w4 " * 30, ""]), st.integers(0, 1)),
    max_size=12,
)


class Counting(FakeEncoder):
    """Counts the texts that are planned to be embedded."""

    def plan(self, texts, *, query=False):  # type: ignore[no-untyped-def]
        self.planned = getattr(self, "planned", 0) + len(texts)
        return super().plan(texts, query=query)


def documents(held: Held) -> list[Document]:
    return [Document(name, text, {"x": x}) for name, (text, x) in held.items()]


def full(held: Held) -> Held:
    """Without documents that have no text."""
    return {name: value for name, value in held.items() if value[0].strip()}


def stored(directory: Path) -> Held:
    with Index.open(directory) as index:
        return {
            document.id: (document.text, document.metadata["x"]) for document, _ in index.in_order()
        }


@given(
    first=CORPORA.filter(lambda held: bool(full(held))),
    then=st.lists(CORPORA, min_size=1, max_size=3),
    chunk=st.sampled_from([None, "8:2"]),
)
@settings(max_examples=60, deadline=None)
def test_an_index_becomes_each_corpus(first: Held, then: list[Held], chunk: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "i"
        build_index(directory, documents(first), FakeEncoder(), chunk=chunk)
        for held in then:
            before, revision = stored(directory), Manifest.read(directory).revision
            new, gone = set(full(held)) - set(before), set(before) - set(full(held))
            changed = {one for one in set(full(held)) & set(before) if held[one] != before[one]}
            plan = plan_sync(directory, documents(held))
            assert (plan.added, plan.updated, plan.removed) == (len(new), len(changed), len(gone))
            assert Manifest.read(directory).revision == revision
            encoder = Counting()
            report = sync_index(directory, documents(held), encoder, shrink=True)
            assert stored(directory) == full(held)
            assert (report.added, report.updated, report.removed) == (
                len(new),
                len(changed),
                len(gone),
            )
            assert report.documents == len(full(held))
            assert verify_index(directory, full=True).problems == []
            untouched = not new and not changed and not gone
            assert (Manifest.read(directory).revision == revision) == untouched
            # A second time there is nothing to do, and no model is asked for.
            again = sync_index(directory, documents(held), no_encoder)
            assert (again.added, again.updated, again.removed) == (0, 0, 0)


def no_encoder(spec: object) -> FakeEncoder:
    raise AssertionError("a model was loaded")


def some(*names: str) -> Held:
    return {name: (f"w{name}", 0) for name in names}


def test_half_of_the_corpus_gone_is_asked_about(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents(some(*"abcdef")), FakeEncoder())
    sync_index(tmp_path / "i", documents(some(*"abc")), no_encoder)
    with pytest.raises(MisuseError, match="lacks 2 of the index's 3 documents, more than half"):
        sync_index(tmp_path / "i", documents(some("a")), no_encoder)
    assert set(stored(tmp_path / "i")) == set("abc")
    sync_index(tmp_path / "i", documents(some("a")), no_encoder, shrink=True)
    assert set(stored(tmp_path / "i")) == {"a"}


def test_nothing_is_deleted_where_something_could_not_be_read(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents(some(*"abc")), FakeEncoder())
    corpus = tmp_path / "c.jsonl"
    lines = [json.dumps({"id": name, "text": f"w{name}", "x": 0}) for name in "bd"]
    corpus.write_text("\n".join([*lines, "{broken"]))

    def read(reject, passed):  # type: ignore[no-untyped-def]
        return read_corpora([corpus], on_bad="skip", reject=reject, passed=passed)

    notes: list[str] = []
    report = sync_index(tmp_path / "i", read, FakeEncoder(), on_bad="skip", notify=notes.append)
    assert set(stored(tmp_path / "i")) == set("abcd")
    assert (report.added, report.removed, report.rejected) == (1, 0, 1)
    assert any("nothing was deleted" in note for note in notes)
    with pytest.raises(CorpusError, match=r"c\.jsonl:3: broken JSON"):
        sync_index(tmp_path / "i", lambda *_: read_corpora([corpus]), FakeEncoder())


def test_what_no_sync_can_be_made_with(tmp_path: Path) -> None:
    directory = tmp_path / "i"
    build_index(directory, documents(some(*"abc")), FakeEncoder())
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(MisuseError, match="without ids of its own cannot be synced"):
        sync_index(directory, list(read_corpora([tmp_path / "c.jsonl"])), FakeEncoder())
    with pytest.raises(FingerprintMismatchError):
        sync_index(
            directory, documents(some(*"abcd")), FakeEncoder(fake_spec(fingerprint="0" * 64))
        )
    twice = [*documents(some("a", "b", "c")), Document("a", "wa", {"x": 0})]
    with pytest.raises(CorpusError, match="id 'a' was already used"):
        sync_index(directory, twice, FakeEncoder())
    assert set(stored(directory)) == set("abc")


def test_an_interrupted_sync_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "i"
    build_index(directory, documents(some(*"abc")), FakeEncoder())
    later = documents({**some("b"), **{f"n{n}": (f"w{n} w{n + 1}", 0) for n in range(300)}})
    with pytest.raises(Interrupted):
        sync_index(directory, later, interrupt_at(2), shrink=True)
    assert set(stored(directory)) == set("abc")
    report = sync_index(directory, later, FakeEncoder(), shrink=True)
    assert report.added == 300 and report.removed == 2
    assert set(stored(directory)) == {document.id for document in later}
    assert verify_index(directory, full=True).problems == []


# Files


def write(folder: Path, names: Iterable[str], text: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"# {name}\n{text} {name}")
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))


def test_only_files_that_changed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, directory = tmp_path / "notes", tmp_path / "i"
    write(folder, (f"{n}.md" for n in range(40)), "text")
    build_index(directory, read_corpora([folder]), FakeEncoder())
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))

    def reader(reject, passed):  # type: ignore[no-untyped-def]
        return read_corpora([folder], reject=reject, passed=passed)

    def files_read() -> list[str]:
        found = sorted({name for name in read if name.endswith(".md")})
        read.clear()
        return found

    report = sync_index(directory, reader, no_encoder)
    assert report.unchanged == report.read == 40
    assert files_read() == []
    (folder / "0.md").write_text("# 0.md\nother text")
    write(folder, ["new.md"], "text")
    (folder / "1.md").unlink()
    os.utime(folder / "2.md", (1_700_000_001, 1_700_000_001))  # touched, and the same text
    encoder = Counting()
    report = sync_index(directory, reader, encoder)
    assert (report.added, report.updated, report.removed) == (1, 1, 1)
    assert encoder.planned == 2
    assert files_read() == ["0.md", "2.md", "new.md"]
    # Of the time when the index was made: it may have been written again within that second.
    now = Manifest.read(directory).changed
    assert sync_index(directory, reader, no_encoder).unchanged == 40
    assert now == Manifest.read(directory).changed
    assert "2.md" in files_read()


# As a command


def test_sync_as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("notes")
    write(folder, ("a.md", "b.md", "c.md"), "text")
    run("-q", "build", folder, "--index", "i")
    same = run("sync", "i", folder)
    assert "added 0, updated 0, deleted 0, unchanged 3" in same.stdout
    assert "model tiny" not in same.stderr
    write(folder, ("d.md",), "text")
    (folder / "a.md").unlink()
    told = run("sync", "i", folder, "--dry-run").stdout
    assert "would add 1, update 0, delete 1, leave 2 as they are" in told
    found = json.loads(run("-q", "sync", "i", folder, "--json").stdout)
    assert (found["added"], found["removed"], found["documents"]) == (1, 1, 3)
    ids = [json.loads(line)["id"] for line in run("list", "i", "--json").stdout.splitlines()]
    assert ids == ["b.md", "c.md", "d.md"]


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["i", "-"], "stdin cannot be synced", 2),
        (["i", "nothing"], "no such file", 1),
        (["i", "notes", "--glob", "a.md"], "more than half; give --yes", 2),
        (["nothing", "notes"], "no such directory", 1),
        (["i", "noids.jsonl"], "without ids of its own", 2),
    ],
)
def test_syncs_that_cannot_be_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("notes"), ("a.md", "b.md", "c.md"), "text")
    Path("noids.jsonl").write_text('{"text": "x"}\n')
    run("-q", "build", "notes", "--index", "i")
    assert words in one_line_error(run("sync", *arguments, status=status))
    assert len(run("list", "i", "--json").stdout.splitlines()) == 3
