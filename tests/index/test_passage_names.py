"""Passages and documents whose names could coincide: refused, or told apart by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder
from moee_index.errors import CorpusError, MisuseError
from moee_index.export.export import export_index
from moee_index.index import Index, add_documents, build_index, delete_documents
from moee_index.index.store.documents import DocumentStore
from moee_index.index.store.passage_names import named_after, named_passage, passage_name
from moee_index.index.write import windows
from moee_index.readers.trec import RunLine
from moee_index.reranking import rerank_run
from moee_index.tune.unlabelled import sample_pairs
from moee_index.types import Document

LONG = " ".join(f"w{n}" for n in range(40))


def long(identifier: str) -> Document:
    return Document(identifier, LONG)


def short(identifier: str) -> Document:
    return Document(identifier, f"text of {identifier}")


def build(path: Path, *documents: Document, **options: object) -> None:
    build_index(path, documents, FakeEncoder(), chunk="10", **options)  # type: ignore[arg-type]


@pytest.fixture
def colliding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index as earlier versions made it: `doc#1` is a document, and a passage of `doc`."""
    with monkeypatch.context() as patch:
        patch.setattr(DocumentStore, "namesake", lambda *_: None)
        patch.setattr(windows._Gathered, "namesake", lambda *_: None)
        build(tmp_path / "old", long("doc"), short("doc#1"), short("other"))
    return tmp_path / "old"


@pytest.mark.parametrize("between", [0, 70])
@pytest.mark.parametrize(
    ("first", "second"), [("doc", "doc#1"), ("doc#1", "doc"), ("a#1", "a#1#12"), ("#", "##3")]
)
def test_a_build_refuses_them_wherever_they_stand(
    tmp_path: Path, first: str, second: str, between: int
) -> None:
    others = [short(f"o{n}") for n in range(between)]
    documents = [long(first), *others, long(second)]
    name, owner = sorted((first, second), key=len, reverse=True)
    with pytest.raises(CorpusError) as caught:
        build(tmp_path / "i", *documents, window=16)
    assert f"id {name!r} is the name of a passage of document {owner!r} too" in str(caught.value)
    build(tmp_path / "i", *documents, window=16, on_bad="skip")
    with Index.open(tmp_path / "i") as index:
        assert index.documents([first, second]).keys() == {first}
    build_index(tmp_path / "whole", documents, FakeEncoder(), window=16)


def test_ids_that_only_look_like_it_are_taken(tmp_path: Path) -> None:
    ids = ["doc", "doc#0", "doc#01", "doc#1a", "doc#", "doc#1#2#x", "1#0", "2#1", "doc#٣", "doc#-1"]
    build(tmp_path / "i", *map(long, ids))
    with Index.open(tmp_path / "i") as index:
        names = list(index.ids())
        assert len(set(names)) == len(names) > len(ids)
        assert named_passage(names[0]) == ("doc", 1)
        assert index.vectors(names).hs.tobytes() == index.vectors_at(range(len(names))).hs.tobytes()


def test_an_add_refuses_them(tmp_path: Path) -> None:
    build(tmp_path / "i", long("doc"), short("x#3"))
    for identifier in ("doc#7", "x"):
        with pytest.raises(CorpusError, match="is the name of a passage"):
            add_documents(tmp_path / "i", [short("y"), short(identifier)], FakeEncoder())
    report = add_documents(
        tmp_path / "i", [short("doc#7"), short("y"), short("x")], FakeEncoder(), on_bad="skip"
    )
    assert (report.added, report.rejected) == (1, 2)
    # What is deleted is in nobody's way.
    delete_documents(tmp_path / "i", ["x#3", "doc"])
    assert add_documents(tmp_path / "i", [short("x"), short("doc#7")], FakeEncoder()).added == 2


def test_a_run_over_an_old_index_takes_each_document_its_own_rows(colliding: Path) -> None:
    run = [("q", [RunLine("q", name, n, 0.0) for n, name in enumerate(("doc", "doc#1"), 1)])]
    encoder = FakeEncoder()
    with Index.open(colliding, encoder) as index:
        (ranked,) = rerank_run(run, {"q": "w3 w4"}, index, encoder)
        searched = {hit.id: hit for hit in index.search("w3 w4")}
        for hit in ranked.hits:
            assert (hit.score, hit.text) == (searched[hit.id].score, searched[hit.id].text)
        assert {hit.id for hit in ranked.hits} == {"doc", "doc#1"}


def test_what_goes_by_name_says_that_it_cannot(colliding: Path, tmp_path: Path) -> None:
    with Index.open(colliding, FakeEncoder()) as index:
        for call in (
            lambda: list(index.ids()),
            lambda: index.vectors(["doc#1"]),
            lambda: index.search("w3", passages=True),
            lambda: export_index(index, tmp_path / "e.safetensors"),
        ):
            with pytest.raises(MisuseError, match="'doc#1' is both a document and a passage"):
                call()
        assert len(index.vectors(["doc#2", "other"])) == 2
        count, _, _ = sample_pairs(index)
        export_index(index, tmp_path / "e.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert len({(row["id"], row["passage"]) for row in rows}) == len(rows) == count
    # Every row of such an index can be added again, and what it holds is unchanged.
    report = add_documents(colliding, [long("doc"), short("doc#1")], FakeEncoder())
    assert (report.added, report.unchanged) == (0, 2)


def test_names_that_are_no_texts(colliding: Path) -> None:
    with Index.open(colliding) as index:
        for ids in ("other", None, 3, ["other", 3], [None]):
            with pytest.raises(MisuseError):
                index.vectors(ids)  # type: ignore[arg-type]


IDS = st.text("ab#012", min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(IDS, st.booleans()), min_size=1, max_size=12, unique_by=lambda p: p[0]))
@example([("a", True), ("a#1", True), ("a#1#1", False)])
def test_no_two_passages_share_a_name(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[str, bool]]
) -> None:
    path = tmp_path_factory.mktemp("names") / "i"
    documents = [long(name) if is_long else short(name) for name, is_long in wanted]
    build(path, *documents, on_bad="skip", window=4)
    with Index.open(path, FakeEncoder()) as index:
        names = list(index.ids())
        assert len(set(names)) == len(names)
        kept = [document for document in documents if index.documents([document.id])]
        ids = {document.id for document in kept}
        assert not any((p := named_passage(name)) and p[0] in ids for name in ids)
        for document in kept:
            (passages,) = index.passages([document.id]).values()
            rows = index.vectors_at([passage.row for passage in passages])
            expected = FakeEncoder().vectors([passage.text for passage in passages])
            np.testing.assert_array_equal(rows.hs, expected.hs)
            for passage in passages:
                assert index.passages([passage.id])[passage.id] == [passage]


@given(IDS, st.integers(1, 10**8))
def test_a_name_is_read_as_it_is_written(identifier: str, number: int) -> None:
    assert named_passage(passage_name(identifier, number)) == (identifier, number)


def test_all_that_are_named_after_one_are_found(tmp_path: Path) -> None:
    ids = [f"a#{n}" for n in range(600)] + ["a", "a$1", "a#x", "b#1"]
    build_index(tmp_path / "i", map(short, ids), FakeEncoder())
    with Index.open(tmp_path / "i") as index:
        (segment,) = index.snapshot.segments
        found = [name for name, _ in segment.documents.named_after("a")]
        assert sorted(found) == sorted(f"a#{n}" for n in range(1, 600))
        assert list(named_after(segment.documents._rows, "nobody")) == []
