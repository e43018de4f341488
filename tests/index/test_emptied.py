"""`add` of documents whose text has become empty, and what is told of fields like `id`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.word_encoder import FakeEncoder, expected_of, held
from moee_index.errors import CorpusError
from moee_index.index import Index, add_documents, build_index, compact_index, verify_index
from moee_index.index.snapshot import WHITESPACE
from moee_index.types import Document


def texts(*pairs: tuple[str, str]) -> list[Document]:
    return [Document(identifier, text) for identifier, text in pairs]


THREE = texts(("1", "a private matter"), ("2", "ships at sea"), ("3", "bread"))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(tmp_path / "i", THREE, FakeEncoder())
    return tmp_path / "i"


def found(index: Path) -> set[str]:
    with Index.open(index, FakeEncoder()) as opened:
        return {hit.id for hit in opened.search("private ships bread", k=100)}


@pytest.mark.parametrize("chunk", [None, "8"])
@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_update_takes_out_what_is_empty_now(
    tmp_path: Path, chunk: str | None, empty: str
) -> None:
    path, told = tmp_path / "i", list[str]()
    build_index(path, THREE, FakeEncoder(), chunk=chunk)
    corpus = texts(("1", empty), ("2", "ships"), ("9", ""), ("4", "new"), ("3", "bread"))
    report = add_documents(path, corpus, FakeEncoder(), update=True, notify=told.append)
    assert (report.read, report.added, report.updated, report.removed) == (5, 1, 1, 1)
    assert (report.unchanged, report.skipped, report.documents) == (1, 1, 3)
    assert report.as_json()["removed"] == 1
    assert "taken out, their text is empty now: '1'" in told
    assert held(path) == expected_of([THREE[2], *texts(("2", "ships"), ("4", "new"))], chunk)
    verify_index(path, full=True)
    again = add_documents(path, corpus, FakeEncoder(), update=True)
    assert (again.unchanged, again.removed, again.skipped) == (3, 0, 2)
    compact_index(path)
    assert "1" not in found(path)


def test_nothing_else_in_the_corpus(index: Path) -> None:
    report = add_documents(index, texts(("1", ""), ("3", "")), FakeEncoder(), update=True)
    assert (report.removed, report.documents, report.added) == (2, 1, 0)
    assert found(index) == {"2"}
    report = add_documents(index, texts(("2", "")), FakeEncoder(), update=True)
    assert (report.removed, report.documents) == (1, 0)
    assert found(index) == set()
    assert add_documents(index, texts(("1", "back")), FakeEncoder(), update=True).added == 1


def test_without_update_it_is_different_content(index: Path) -> None:
    corpus = texts(("1", ""), ("9", ""))
    with pytest.raises(CorpusError, match="'1' has no text any more, but one in the index; give"):
        add_documents(index, corpus, FakeEncoder())
    report = add_documents(index, corpus, FakeEncoder(), on_bad="skip")
    assert (report.rejected, report.skipped, report.removed) == (1, 1, 0)
    assert "removed" not in report.as_json()
    assert found(index) == {"1", "2", "3"}


@pytest.mark.parametrize(
    "corpus",
    [
        texts(("1", ""), ("1", "text")),
        texts(("1", "text"), ("1", "")),
        texts(("1", ""), ("1", "")),
        texts(("1", "a private matter"), ("1", "")),
    ],
)
def test_an_id_that_comes_twice(index: Path, corpus: list[Document]) -> None:
    with pytest.raises(CorpusError, match="id '1' was already used"):
        add_documents(index, corpus, FakeEncoder(), update=True)
    assert found(index) == {"1", "2", "3"}


def test_a_title_is_text_and_a_made_up_id_says_nothing(index: Path) -> None:
    report = add_documents(
        index,
        [Document("1", "", title="still here"), Document("3", "", made_id=True)],
        FakeEncoder(),
        update=True,
    )
    assert (report.updated, report.removed, report.skipped) == (1, 0, 1)


def test_fields_that_the_documents_own_hide_are_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    documents = [Document(f"d{n}", "a", {"id": f"m{n}", "text": 1}) for n in range(70)]
    build_index(tmp_path / "i", documents, FakeEncoder(), notify=told.append, window=16)
    notes = [note for note in told if "metadata field" in note]
    assert len(notes) == 2
    assert "'id': in a filter, id is the document's own, and .id is that field" in notes[0]
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        assert [hit.id for hit in index.search("a", filter='.id = "m7"')] == ["d7"]
        assert [hit.id for hit in index.search("a", filter='id = "d7" and .text = 1')] == ["d7"]


def test_ids_that_a_run_cannot_hold_are_known(tmp_path: Path) -> None:
    assert sorted(WHITESPACE) == [c for c in map(chr, range(0x110000)) if c.isspace()]
    for number, character in enumerate(WHITESPACE):
        path = tmp_path / str(number)
        documents = [Document(f"b{character}c", "a", {"n": 1}), Document("d", "a", {"n": 2})]
        build_index(path, documents, FakeEncoder())
        with Index.open(path) as index:
            with pytest.raises(CorpusError, match="1 document whose id has whitespace"):
                index.snapshot.check_run_ids()
            index.snapshot.check_run_ids("n = 2")
