"""An index that changes: add, delete, compact, reindex, each against what it must then hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import FAST

from fakes.indexes import Interrupted, fake_documents, interrupt_at
from fakes.word_encoder import FakeEncoder, expected_of, fake_spec, held
from moee_index.atomic import WriterLock
from moee_index.errors import (
    CorpusError,
    FingerprintMismatchError,
    IndexDamagedError,
    IndexLockedError,
    MisuseError,
    NotAnIndexError,
)
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    verify_index,
)
from moee_index.index.search import pair
from moee_index.index.store.layout import BUILDING, segment_folders
from moee_index.index.store.manifest import Manifest
from moee_index.index.write import pipeline as embed_module
from moee_index.index.write.merge import tail_to_merge
from moee_index.readers.corpus import read_corpora
from moee_index.readers.trec import RunLine
from moee_index.reranking import rerank_run
from moee_index.types import Document, Pair

WINDOW = 32
METHODS = ("sum", "concat", "hs", "rw")


@pytest.fixture(autouse=True)
def commit_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Where fsync costs nothing, if there is such a place: these tests write a lot."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        yield Path(name)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """100 documents, d0 to d99."""
    build_index(tmp_path / "i", fake_documents(100), FakeEncoder(), window=WINDOW)
    return tmp_path / "i"


def new_documents(count: int, prefix: str = "n") -> list[Document]:
    """Documents of other ids and texts than `fake_documents`, every third with a field x."""
    return [
        Document(
            f"{prefix}{i}", f"{document.text} {prefix}{i % 7}", document.metadata,
            source=f"{prefix}.jsonl:{i + 1}",
        )
        for i, document in enumerate(fake_documents(count))
    ]  # fmt: skip


def changed(document: Document, text: str | None = None) -> Document:
    return Document(document.id, text or f"{document.text} changed", document.metadata)


def add(directory: Path, documents: Any, encoder: FakeEncoder | None = None, **options: Any):  # type: ignore[no-untyped-def]
    return add_documents(directory, documents, encoder or FakeEncoder(), **options)


def sound(directory: Path) -> Manifest:
    """The manifest of an index in which nothing is wrong and nothing lies about."""
    report = verify_index(directory, full=True)
    assert report.problems == []
    manifest = Manifest.read(directory)
    there = {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }
    assert there - {"manifest.json", "lock", "rejected.jsonl"} == set(manifest.files)
    assert report.documents == manifest.documents
    return manifest


def answers(directory: Path, k: int = 400) -> list[list[tuple[str, float, float, float]]]:
    """Hits of all methods with their scores to the last bit; a filter among them."""
    queries = FakeEncoder().encode(["w3 w14", "w15 w9 w2 n3", "w1"])
    with Index.open(directory) as index:
        found = [
            *(hits for m in METHODS for hits in index.search_embeddings(queries, k, method=m)),
            *index.search_embeddings(queries, k, alpha=0.3),
            *(index.search_embeddings(queries, 5, filter="x = 1") if len(index) else ()),
        ]
    return [[(hit.id, hit.score, hit.hs, hit.rw) for hit in hits] for hits in found]


# Add


def test_new_documents_are_added_and_found(index: Path) -> None:
    before = fake_documents(100)
    new = new_documents(40)
    report = add(index, new)
    assert (report.read, report.added, report.updated, report.unchanged) == (40, 40, 0, 0)
    assert (report.skipped, report.rejected, report.documents) == (0, 0, 140)
    assert report.texts_per_second > 0
    manifest = sound(index)
    assert [one.rows for one in manifest.segments] == [100, 40]
    assert manifest.revision == 2
    assert manifest.counts["read"] == 140
    assert held(index) == expected_of([*before, *new])
    with Index.open(index, FakeEncoder()) as opened:
        assert opened.search(new[7].text, 1)[0].id == "n7"
        assert opened.search(before[7].text, 1)[0].hs == 1.0
    json.dumps(report.as_json())


def test_the_standardizer_stays_as_it_is(index: Path) -> None:
    file = index / "standardizer-0001.safetensors"
    before = file.read_bytes()
    with Index.open(index, FakeEncoder()) as opened:
        hit = opened.search("w3 w4", 1)[0]
    add(index, new_documents(300))
    assert file.read_bytes() == before
    with Index.open(index, FakeEncoder()) as opened:
        found = {one.id: one for one in opened.search("w3 w4", 400)}
        assert (found[hit.id].score, found[hit.id].hs) == (hit.score, hit.hs)


def test_the_same_documents_again_are_skipped(index: Path) -> None:
    documents = fake_documents(100)
    manifest = Manifest.read(index)
    encoder = FakeEncoder()
    report = add(index, documents, encoder)
    assert (report.read, report.added, report.unchanged) == (100, 0, 100)
    assert not encoder.calls
    assert Manifest.read(index) == manifest
    assert sound(index) == manifest
    report = add(index, [*documents[90:], *new_documents(3), *documents[:5]], update=True)
    assert (report.added, report.updated, report.unchanged) == (3, 0, 15)
    # What an earlier add brought is known as well.
    assert add(index, new_documents(4)).added == 1
    assert sound(index).documents == 104


def test_nothing_to_add_changes_nothing(index: Path) -> None:
    manifest = Manifest.read(index)
    for documents in ([], [Document("e", ""), Document("f", " \n")]):
        report = add(index, documents)
        assert (report.added, report.skipped, report.documents) == (0, len(documents), 100)
        assert sound(index) == manifest


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            Document("d3", "other words", source="b.jsonl:2"),
            "b.jsonl:2: document 'd3' has different text",
        ),
        (
            Document("d3", fake_documents(4)[3].text, {"x": 2}),
            "document 'd3' has different metadata",
        ),
        (
            Document("d3", fake_documents(4)[3].text, {"x": True}),
            "document 'd3' has different metadata",
        ),
        (
            Document("d3", fake_documents(4)[3].text, {"x": 1.0}),
            "document 'd3' has different metadata",
        ),
        (Document("d3", fake_documents(4)[3].text, {"x": 1}, title="T"), "'d3' has different text"),
    ],
)
def test_other_content_needs_update(index: Path, other: Document, told: str) -> None:
    manifest, before = Manifest.read(index), held(index)
    new = new_documents(5)
    with pytest.raises(CorpusError, match=rf"{told}.*--update.*--on-bad skip"):
        add(index, [*new, other])
    assert Manifest.read(index) == manifest
    assert held(index) == before
    report = add(index, [*new, other], update=True)
    assert (report.added, report.updated, report.documents) == (5, 1, 105)
    manifest = sound(index)
    assert [(one.rows, one.deleted_rows) for one in manifest.segments] == [(100, 1), (6, 0)]
    documents = fake_documents(100)
    assert held(index) == expected_of([*documents[:3], *documents[4:], *new, other])
    with Index.open(index, FakeEncoder()) as opened:
        assert opened.documents(["d3"])["d3"].text == other.text
        assert [hit.id for hit in opened.search("w3", 200)].count("d3") == 1
    assert add(index, [other], update=True).unchanged == 1
    assert add(index, [other]).unchanged == 1


def test_update_needs_ids_of_the_documents_own(index: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(index)
    path = tmp_path / "new.jsonl"
    path.write_text('{"id": "d3", "text": "new words"}\n{"text": "other words"}\n')
    with pytest.raises(CorpusError, match=r"new\.jsonl:2: no id, and --update needs one"):
        add(index, read_corpora([path]), update=True)
    assert Manifest.read(index) == manifest
    # The other documents can be used.
    report = add(index, read_corpora([path]), update=True, on_bad="skip")
    assert (report.updated, report.added, report.rejected) == (1, 0, 1)
    path.write_text('{"text": "other words"}\n')
    assert add(index, read_corpora([path])).added == 1
    sound(index)


def test_update_of_every_document(index: Path) -> None:
    newer = [changed(document) for document in fake_documents(100)]
    report = add(index, newer, update=True)
    assert (report.added, report.updated, report.documents) == (0, 100, 100)
    manifest = sound(index)
    # Nothing of the first segment counts: it is gone, and so are its files.
    assert [one.name for one in manifest.segments] == ["segment-0002"]
    assert held(index) == expected_of(newer)


def test_duplicates_within_the_corpus(index: Path) -> None:
    manifest = Manifest.read(index)
    new = new_documents(50)
    known = fake_documents(100)[7]
    twice = Document("n4", "other words", source="b.jsonl:9")
    for corpus, told in (
        ([*new, twice], r"b.jsonl:9: id 'n4' was already used \(n.jsonl:5\)"),
        ([*new[:5], twice], r"b.jsonl:9: id 'n4' was already used \(n.jsonl:5\)"),
        # The first of the two is there already, the second is other content or the same.
        ([known, changed(known)], "id 'd7' was already used"),
        ([known, known], "id 'd7' was already used"),
        ([changed(known), known], "id 'd7' was already used"),
    ):
        with pytest.raises(CorpusError, match=told):
            add(index, corpus, update=True)
        assert Manifest.read(index) == manifest
    report = add(index, [*new, twice, known, changed(known)], update=True, on_bad="skip")
    assert (report.added, report.updated, report.unchanged, report.rejected) == (50, 0, 1, 2)
    assert report.read == 53
    lines = (index / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["b.jsonl:9", ""]
    assert held(index) == expected_of([*fake_documents(100), *new])
    sound(index)


def test_on_bad_skip_leaves_other_content_out(index: Path) -> None:
    other = Document("d3", "other words", source="b.jsonl:2")
    before = held(index)
    # Also where nothing is added at all, what was left out is told.
    report = add(index, [other], on_bad="skip")
    assert (report.read, report.added, report.rejected) == (1, 0, 1)
    (line,) = (index / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["source"] == "b.jsonl:2"
    assert "--update" in json.loads(line)["reason"]
    assert held(index) == before
    report = add(index, [other, *new_documents(2)], on_bad="skip")
    assert (report.added, report.rejected) == (2, 1)
    assert len((index / "rejected.jsonl").read_text().splitlines()) == 1
    assert add(index, new_documents(3)).added == 1
    assert not (index / "rejected.jsonl").exists()
    sound(index)


def test_another_model_is_refused(index: Path) -> None:
    manifest = Manifest.read(index)
    for encoder, told in (
        (FakeEncoder(spec=fake_spec(fingerprint="0" * 64)), "another model"),
        (FakeEncoder(spec=fake_spec(prompt="{text}")), r"prompt 'none' \(now '{text}'\)"),
    ):
        with pytest.raises(FingerprintMismatchError, match=told):
            add(index, new_documents(3), encoder)
    assert sound(index) == manifest
    # Another path to the same model is the same model; the index keeps its own description.
    add(index, new_documents(3), FakeEncoder(spec=fake_spec(path="/elsewhere")))
    assert Manifest.read(index).spec == manifest.spec


def test_wrong_calls_change_nothing(index: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(index)
    with pytest.raises(MisuseError, match="on_bad"):
        add(index, [], on_bad="ignore")
    with pytest.raises(MisuseError, match="standardize"):
        reindex(index, standardize="all")
    with pytest.raises(MisuseError, match="index type"):
        reindex(index, index_type="nonsense")
    with pytest.raises(MisuseError, match="IVF500"):
        reindex(index, index_type="IVF500,Flat")
    changes: list[Callable[[Path], Any]] = [
        lambda path: add(path, new_documents(3)),
        lambda path: delete_documents(path, ["d1"]),
        reindex,
        compact_index,
    ]
    (tmp_path / "empty").mkdir()
    for change in changes:
        for path in (tmp_path / "nowhere", tmp_path / "empty"):
            with pytest.raises(NotAnIndexError):
                change(path)
        with WriterLock(index), pytest.raises(IndexLockedError, match="another process"):
            change(index)
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
    assert sound(index) == manifest


def test_an_index_that_is_too_small_to_standardise(tmp_path: Path) -> None:
    documents = fake_documents(100)
    build_index(tmp_path / "i", documents[:20], FakeEncoder(), window=WINDOW)
    add(tmp_path / "i", documents[20:])
    assert sound(tmp_path / "i").standardize == "none"
    # From now on there are enough.
    told: list[str] = []
    report = reindex(tmp_path / "i", notify=told.append)
    assert report.standardize == "both"
    assert any(message.startswith("standardize both: ") for message in told)
    build_index(tmp_path / "whole", documents, FakeEncoder(), window=WINDOW)
    assert answers(tmp_path / "i") == answers(tmp_path / "whole")


def interrupted(directory: Path, documents: Iterable[Document], batch: int, **options: Any) -> None:
    with pytest.raises(Interrupted):
        add(directory, documents, interrupt_at(batch), **options)


def test_an_interrupted_add_goes_on(index: Path) -> None:
    before, new = held(index), new_documents(100)
    new[40] = changed(fake_documents(100)[7])
    whole = FakeEncoder()
    for batch in (1, 4, 9):
        interrupted(index, new, batch, update=True)
        # The index answers as before, whole and sound.
        assert held(index) == before
        assert verify_index(index, full=True).ok
        (unfinished,) = (f for f in segment_folders(index) if (f / BUILDING).exists())
    told: list[str] = []
    report = add(index, new, whole, update=True, notify=told.append)
    assert any("resuming an interrupted add" in message for message in told)
    assert (report.added, report.updated) == (99, 1)
    alone = FakeEncoder()
    build_index(index.parent / "alone", new, alone, window=WINDOW)
    # 0, 3 and 8 batches were done before.
    assert len(whole.calls) == len(alone.calls) - 11
    old = [document for document in fake_documents(100) if document.id != "d7"]
    assert held(index) == expected_of([*old, *new])
    assert unfinished.name in {one.name for one in sound(index).segments}


def test_an_interrupted_add_goes_on_after_other_changes(index: Path) -> None:
    """Another writer deleted, compacted, refitted in the meantime; what was embedded still serves,
    because it does not depend on any of that."""
    new = new_documents(100)
    new[40] = changed(fake_documents(100)[7])
    interrupted(index, new, 9, update=True)
    delete_documents(index, ["d7", "d8"])
    compact_index(index)
    reindex(index, standardize="rw")
    assert verify_index(index, full=True).ok
    encoder = FakeEncoder()
    report = add(index, new, encoder, update=True)
    # d7 is gone by now, so its newer content is new.
    assert (report.added, report.updated, report.documents) == (100, 0, 198)
    alone = FakeEncoder()
    build_index(index.parent / "alone", new, alone, window=WINDOW)
    assert len(encoder.calls) == len(alone.calls) - 8
    old = [document for document in fake_documents(100) if document.id not in ("d7", "d8")]
    assert held(index) == expected_of([*old, *new])
    assert sound(index).standardize == "rw"


def test_an_interrupted_add_with_another_corpus(index: Path) -> None:
    """What it does not ask for is forgotten, and nothing of it comes into the index."""
    new, expected = new_documents(100), fake_documents(100)
    for documents in (new[50:], [changed(new[60]), *new[:20]], new[20:23]):
        interrupted(index, new, 9, update=True)
        report = add(index, documents, update=True)
        assert report.added + report.updated == len(documents)
        ids = {document.id for document in documents}
        expected = [*(one for one in expected if one.id not in ids), *documents]
        assert held(index) == expected_of(expected)
        sound(index)
    interrupted(index, new_documents(60, "m"), 9)
    assert add(index, []).documents == 173
    assert held(index) == expected_of(expected)
    sound(index)


def test_an_interrupted_add_whose_documents_came_another_way(index: Path) -> None:
    new = new_documents(70)
    interrupted(index, new, 9)
    unfinished = segment_folders(index)[-1]
    aside = index.parent / "aside"
    unfinished.rename(aside)
    add(index, new[:50])
    aside.rename(unfinished.with_name("segment-0009"))
    report = add(index, new)
    assert (report.added, report.unchanged) == (20, 50)
    assert held(index) == expected_of([*fake_documents(100), *new])
    sound(index)


def test_an_interrupted_build_is_no_add(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        build_index(tmp_path / "i", fake_documents(100), interrupt_at(8), window=WINDOW)
    with pytest.raises(NotAnIndexError, match="an unfinished build"):
        add(tmp_path / "i", new_documents(5))
    with pytest.raises(NotAnIndexError, match="an unfinished build"):
        delete_documents(tmp_path / "i", ["d1"])
    assert build_index(tmp_path / "i", fake_documents(100), FakeEncoder(), window=WINDOW).resumed


def test_a_build_over_an_index_with_an_interrupted_add(index: Path) -> None:
    interrupted(index, new_documents(100), 9)
    documents = fake_documents(70)
    report = build_index(index, documents, FakeEncoder(), window=WINDOW, overwrite=True)
    assert (report.embedded, report.resumed) == (70, 0)
    assert held(index) == expected_of(documents)
    sound(index)


def test_half_precision_rows_are_added_and_copied(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder(), store="float16")
    add(tmp_path / "i", new_documents(20))
    delete_documents(tmp_path / "i", ["d3"])
    before = answers(tmp_path / "i")
    rows = held(tmp_path / "i")
    compact_index(tmp_path / "i")
    assert held(tmp_path / "i") == rows
    assert answers(tmp_path / "i") == before
    assert (tmp_path / "i" / sound(tmp_path / "i").segments[0].name / "hs.f16").exists()


# Delete


def test_deleted_documents_are_gone(index: Path) -> None:
    documents = fake_documents(100)
    report = delete_documents(index, ["d3", "d50", "d3"])
    assert (report.changed, report.documents, report.segments) == (2, 98, 1)
    left = [document for document in documents if document.id not in ("d3", "d50")]
    assert held(index) == expected_of(left)
    assert sound(index).segments[0].deleted_documents == 2
    with Index.open(index, FakeEncoder()) as opened:
        assert len(opened) == 98
        assert opened.documents(["d3", "d4"]).keys() == {"d4"}
        for method in METHODS:
            hits = opened.search(documents[3].text, 200, method=method)
            assert len(hits) == 98
            assert hits.exact
            assert not {"d3", "d50"} & {hit.id for hit in hits}
        assert "d3" not in opened.ids()
        with pytest.raises(MisuseError, match="no document 'd3'"):
            opened.vectors(["d3"])
    # What is deleted can be added anew.
    assert add(index, [documents[3]]).added == 1
    assert held(index) == expected_of([*left, documents[3]])
    delete_documents(index, ["d3", "d0", "d99"])
    assert held(index) == expected_of(left[1:-1])
    sound(index)


def test_unknown_ids_delete_nothing(index: Path) -> None:
    manifest = Manifest.read(index)
    with pytest.raises(MisuseError, match=r"no document 'x'; nothing was deleted .*--missing-ok"):
        delete_documents(index, ["d1", "x"])
    with pytest.raises(MisuseError, match="no document 'x' and 1 more; nothing was deleted"):
        delete_documents(index, ["x", "d1", "y", "x"])
    assert sound(index) == manifest
    delete_documents(index, ["d1"])
    with pytest.raises(MisuseError, match="no document 'd1'"):
        delete_documents(index, ["d1"])
    manifest = Manifest.read(index)
    for ids in (["d1"], [], ["x", "y"]):
        report = delete_documents(index, ids, missing_ok=True)
        assert (report.changed, report.unchanged, report.documents) == (0, True, 99)
        assert Manifest.read(index) == manifest
    assert delete_documents(index, ["x", "d2", "d1"], missing_ok=True).changed == 1
    assert sound(index).documents == 98


@pytest.mark.parametrize("several", [False, True])
def test_everything_deleted(index: Path, several: bool) -> None:
    if several:
        add(index, new_documents(30))
    with Index.open(index) as opened:
        ids = list(opened.ids())
        fields = opened.fields
        delete_documents(index, ids)
        # A reader keeps the version that it opened, with what is looked up late.
        assert len(opened) == len(ids)
        assert opened.fields == fields
        query = FakeEncoder().encode(["w3 w4"])
        assert opened.search_embeddings(query, filter="x = 1")[0]
        assert opened.documents(["nowhere"]) == {}
    for _ in range(2):
        manifest = sound(index)
        assert (manifest.documents, manifest.segments) == (0, ())
        with Index.open(index, FakeEncoder()) as opened:
            assert len(opened) == 0
            assert list(opened.ids()) == []
            assert opened.documents(["d1"]) == {}
            for method in METHODS:
                hits = opened.search("w3 w4", 5, method=method)
                assert hits == []
                assert hits.exact
            assert opened.search(["w3", "w4"]) == [[], []]
            assert opened.search("w3", filter="x = 1", passages=True) == []
            assert opened.info()["documents"] == 0
        assert compact_index(index).unchanged
        with pytest.raises(MisuseError, match="no document 'd1'"):
            delete_documents(index, ["d1"])
        assert delete_documents(index, ["d1"], missing_ok=True).unchanged
        # Once more, fitted on nothing.
        reindex(index)
    new = new_documents(70)
    assert add(index, new).added == 70
    assert held(index) == expected_of(new)
    assert reindex(index).standardize == "both"
    build_index(index.parent / "fresh", new, FakeEncoder(), window=WINDOW)
    assert answers(index) == answers(index.parent / "fresh")
    sound(index)


def test_readers_keep_the_version_that_they_opened(index: Path) -> None:
    """Rows, texts and filters of an opened index, while all of its files are replaced."""
    add(index, new_documents(30))
    rows = held(index)
    before = answers(index)
    opened = Index.open(index, FakeEncoder())
    delete_documents(index, ["d1", "n1"])
    compact_index(index)
    reindex(index, index_type="HNSW8")
    add(index, [changed(document) for document in fake_documents(20)], update=True)
    queries = FakeEncoder().encode(["w3 w14", "w15 w9 w2 n3", "w1"])
    found = [
        *(hits for m in METHODS for hits in opened.search_embeddings(queries, 400, method=m)),
        *opened.search_embeddings(queries, 400, alpha=0.3),
        *opened.search_embeddings(queries, 5, filter="x = 1"),
    ]
    assert [[(hit.id, hit.score, hit.hs, hit.rw) for hit in hits] for hits in found] == before
    assert [found[0] for found in rows] == list(opened.ids())
    assert opened.vectors(["d1", "n1"]).hs[0].tobytes() == rows[1][3]
    assert opened.documents(["d1", "nowhere"])["d1"].text == rows[1][1]
    opened.close()


# Compact


def test_compact_keeps_rows_scores_and_the_order_of_equals(index: Path) -> None:
    assert compact_index(index).unchanged
    # Equal documents in several segments: their order is the index's.
    equal = [Document(f"e{i}", "w3 w4 same") for i in range(5)]
    for number in range(2):
        add(index, [*new_documents(8, f"p{number}-"), *equal[number * 2 : number * 2 + 2]])
    add(index, [equal[4], changed(fake_documents(100)[9])], update=True)
    delete_documents(index, ["d3", "e1", "p1-2"])
    assert len(Manifest.read(index).segments) > 1
    rows, before = held(index), answers(index)
    size = Manifest.read(index).size
    stages: list[tuple[str, int, int | None]] = []
    report = compact_index(index, progress=lambda *moved: stages.append(moved))
    assert (report.segments, report.documents) == (1, len(rows))
    assert report.bytes < report.bytes_before == size
    assert [name for name, done, total in stages if done == total][:1] == ["copying"]
    manifest = sound(index)
    assert (manifest.segments[0].rows, manifest.segments[0].deleted) == (len(rows), None)
    assert manifest.standardizer == 1
    assert held(index) == rows
    assert answers(index) == before
    with Index.open(index, FakeEncoder()) as opened:
        assert [hit.id for hit in opened.search("w3 w4 same", 4)] == ["e0", "e2", "e3", "e4"]
        assert opened.search("w3", 500, filter="x = 1").exact
    assert compact_index(index).unchanged


def test_a_damaged_document_is_not_copied(index: Path) -> None:
    delete_documents(index, ["d1"])
    path = index / "segment-0001/hs.f32"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    manifest = Manifest.read(index)
    for change in (compact_index, reindex):
        with pytest.raises(IndexDamagedError, match=r"hs\.f32"):
            change(index)
        assert Manifest.read(index) == manifest
        assert [path.name for path in segment_folders(index)] == ["segment-0001"]
    content[5000] ^= 1
    path.write_bytes(content)
    compact_index(index)
    sound(index)


# Reindex


def test_reindex_is_as_a_fresh_build(index: Path) -> None:
    documents = fake_documents(100)
    add(index, new_documents(60))
    delete_documents(index, [f"d{i}" for i in range(0, 60, 2)])
    add(index, [changed(documents[1]), *new_documents(9, "m")], update=True)
    left = [document for document in documents[2:] if int(document.id[1:]) % 2 or
            int(document.id[1:]) >= 60]  # fmt: skip
    order = [*left, *new_documents(60), changed(documents[1]), *new_documents(9, "m")]
    assert held(index) == expected_of(order)
    build_index(index.parent / "fresh", order, FakeEncoder(), window=WINDOW)
    assert answers(index) != answers(index.parent / "fresh")
    for standardize in (None, "rw", "none", "hs", "both"):
        report = reindex(index, standardize=standardize)
        assert report.standardize == (standardize or "both")
        assert sound(index).standardize == report.standardize
        build_index(
            index.parent / "fresh", order, FakeEncoder(), window=WINDOW, overwrite=True,
            standardize=standardize,
        )  # fmt: skip
        with Index.open(index) as one, Index.open(index.parent / "fresh") as other:
            ours, theirs = one.standardizer.to_arrays(), other.standardizer.to_arrays()
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            np.testing.assert_allclose(values, theirs[name], rtol=1e-12)
        assert answers(index) == answers(index.parent / "fresh")
    assert held(index) == expected_of(order)


def test_reindex_without_deletions_keeps_the_rows_where_they_are(index: Path) -> None:
    rows = index / "segment-0001/hs.f32"
    inode = rows.stat().st_ino
    reindex(index, index_type="HNSW8")
    assert rows.stat().st_ino == inode
    assert sound(index).index_type == Pair("HNSW8", "HNSW8")
    reindex(index, index_type="flat", standardize="none")
    assert rows.stat().st_ino == inode
    build_index(index.parent / "fresh", fake_documents(100), FakeEncoder(), standardize="none")
    assert answers(index) == answers(index.parent / "fresh")
    sound(index)


@pytest.mark.parametrize("factory", ["HNSW8", "IVF4,Flat", "SQ8", "approx"])
def test_approximate_types_with_changes_and_filters(
    index: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are those of the raw rows, whatever was deleted, added behind it, or filtered."""
    monkeypatch.setattr(pair, "SCANNED_ROWS", 0)
    first = "flat" if factory == "approx" else factory
    reindex(index, index_type=factory)
    delete_documents(index, [f"d{i}" for i in range(0, 100, 4)])
    add(index, new_documents(30))
    add(index, [changed(document) for document in fake_documents(9)[1:4]], update=True)
    manifest = sound(index)
    assert [one.index_type["hs"] for one in manifest.segments] == [first, "flat", "flat"]
    query = FakeEncoder().encode(["w3 w14"])

    def found(condition: str | None, k: int, method: str) -> dict[str, float]:
        with Index.open(index) as opened:
            hits = opened.search_embeddings(query, k, method=method, filter=condition)[0]
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)
            return {hit.id: hit.score for hit in hits}

    kept = {
        (condition, k, method): found(condition, k, method)
        for condition in (None, "x = 1", "not x exists", 'id = "d5"')
        for k in (1, 5, 500)
        for method in METHODS
    }
    for (_, k, _), hits in kept.items():
        assert len(hits) <= k
    assert len(kept[None, 500, "sum"]) == manifest.documents
    assert list(kept['id = "d5"', 5, "sum"]) == ["d5"]
    compact_index(index)
    assert [one.index_type["hs"] for one in sound(index).segments] == [first]
    for (condition, k, method), hits in kept.items():
        if k == 500:
            assert found(condition, k, method) == hits
    # Flat codes over the same standardizer: the same scores, bit by bit.
    with Index.open(index) as opened:
        everything = {
            (hit.id, hit.score) for hit in opened.search_embeddings(query, 500, method="sum")[0]
        }
    assert everything >= set(kept[None, 5, "sum"].items())
    reindex(index, index_type="flat")
    with Index.open(index) as opened:
        assert opened.search_embeddings(query, 5)[0].exact


def test_too_few_documents_are_left_for_a_type(index: Path) -> None:
    reindex(index, index_type="IVF50,Flat")
    delete_documents(index, [f"d{i}" for i in range(60)])
    manifest, before = Manifest.read(index), answers(index)
    for change in (compact_index, reindex):
        with pytest.raises(MisuseError, match=r"IVF50.*from 40 documents"):
            change(index)
        assert sound(index) == manifest
        assert answers(index) == before
    assert reindex(index, index_type="flat").segments == 1
    sound(index)


# Many small adds


@pytest.mark.parametrize("index_type", ["flat", "HNSW8"])
@pytest.mark.parametrize("size", [1, 10])
def test_many_adds_leave_few_segments(tmp_path: Path, index_type: str, size: int) -> None:
    documents = fake_documents(40)
    build_index(tmp_path / "i", documents, FakeEncoder(), index_type=index_type)
    told: list[str] = []
    expected = list(documents)
    most = 0
    for number in range(40):
        new = new_documents(size, f"a{number}-")
        add(tmp_path / "i", new, notify=told.append)
        expected += new
        if number % 10 == 9:
            gone = expected.pop(number * size // 2)
            delete_documents(tmp_path / "i", [gone.id])
        manifest = Manifest.read(tmp_path / "i")
        most = max(most, len(manifest.segments))
    assert most <= 8
    assert any("joined" in message for message in told)
    assert held(tmp_path / "i") == expected_of(expected)
    kinds = [one.index_type["hs"] for one in sound(tmp_path / "i").segments]
    assert kinds == [index_type, *["flat"] * (len(kinds) - 1)]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_is_copied_few_times(seed: int) -> None:
    """The rule alone, over thousands of adds of all sizes: few segments, few copies of a row."""
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    copied = added = 0
    for _ in range(3000):
        new = int(rng.integers(1, 4) if seed < 2 else 10 ** rng.uniform(0, 4))
        sizes.append(new)
        added += new
        start = tail_to_merge(sizes)
        if start is not None:
            copied += sum(sizes[start:])
            sizes[start:] = [sum(sizes[start:])]
        # Three small ones may stand before each that is larger than all before it.
        assert len(sizes) <= 4 + (1 if seed < 2 else 4) * np.log2(added)
    assert sum(sizes) == added
    assert copied <= added * (2 + np.log2(added))


# Passages


LONG = "w1 w2 w3 w4 w5. w6 w7 w8 w9 w10. w11 w12 w13 w14 w15. w16 w17 w18 w19 w20. w21 w22 w23 w24"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Passages of 10 words at most: `long` has 3, the others one."""
    documents = [
        Document("short", "w1 w2 w3", {"kind": "s"}),
        Document("long", LONG, {"kind": "l"}),
        Document("other", "w30 w31 w32 w33 w34. w11 w12 w13 w14 w15 w16", {"kind": "s"}),
    ]
    build_index(tmp_path / "i", documents, FakeEncoder(), chunk="10")
    return tmp_path / "i"


def test_a_split_document_is_one_hit(split: Path) -> None:
    manifest = sound(split)
    assert (manifest.documents, manifest.rows) == (3, 6)
    with Index.open(split, FakeEncoder()) as opened:
        hits = opened.search("w11 w12 w13 w14 w15. w16 w17 w18 w19 w20.", 5)
        assert hits[0].id == "long"
        assert (hits[0].passage, hits[0].hs) == ("long#2", 1.0)
        assert hits[0].text == "w11 w12 w13 w14 w15. w16 w17 w18 w19 w20."
        assert sorted(hit.id for hit in hits) == ["long", "other", "short"]
        assert [hit.rank for hit in hits] == [1, 2, 3]
        every = opened.search("w11 w12 w13 w14 w15. w16 w17 w18 w19 w20.", 9, passages=True)
        assert sorted(hit.id for hit in every) == [
            "long#1", "long#2", "long#3", "other#1", "other#2", "short",
        ]  # fmt: skip
        best = {hit.id: max(one.score for one in every if one.id.split("#")[0] == hit.id)
                for hit in hits}  # fmt: skip
        assert best == {hit.id: hit.score for hit in hits}
        assert [p.id for p in opened.passages(["long"])["long"]] == ["long#1", "long#2", "long#3"]
        assert opened.passages(["long#2", "long#4", "x#1"]).keys() == {"long#2"}
        row = opened.vectors(["long#2"])
        assert np.array_equal(row.hs, FakeEncoder().encode([hits[0].text]).hs)
        with pytest.raises(MisuseError, match=r"has 3 passages; name one, as in long#1"):
            opened.vectors(["long"])
        with pytest.raises(MisuseError, match="no document 'long#4'"):
            opened.vectors(["long#4"])


def test_split_documents_are_deleted_and_replaced_whole(split: Path) -> None:
    for index in ("d", "e"):
        add(split, [Document(f"{index}{i}", f"{LONG} v{i}.", {"kind": "n"}) for i in range(4)])
    newer = Document("long", f"{LONG}. And w40 w41 w42 w43 w44 w45 w46 w47.", {"kind": "l"})
    assert add(split, [newer], update=True).updated == 1
    delete_documents(split, ["d1", "other"])
    with pytest.raises(MisuseError, match="no document 'd2#1'"):
        delete_documents(split, ["d2#1"])
    expected = [
        Document("short", "w1 w2 w3", {"kind": "s"}),
        *(Document(f"d{i}", f"{LONG} v{i}.", {"kind": "n"}) for i in (0, 2, 3)),
        *(Document(f"e{i}", f"{LONG} v{i}.", {"kind": "n"}) for i in range(4)),
        newer,
    ]
    for change in (None, compact_index, reindex):
        if change is not None:
            change(split)
        assert held(split) == expected_of(expected, "10")
        manifest = sound(split)
        with Index.open(split, FakeEncoder()) as opened:
            assert len(opened) == manifest.documents == 9
            hits = opened.search("w11 w12 w13", 50)
            assert sorted(hit.id for hit in hits) == sorted(document.id for document in expected)
            for k in (1, 2, 5):
                assert opened.search("w11 w12 w13", k) == hits[:k]
            only = opened.search("w11 w12 w13", 50, filter='kind = "n"')
            assert [hit.id for hit in only] == [hit.id for hit in hits if hit.id[0] in "de"]
            assert [hit.score for hit in only] == [hit.score for hit in hits if hit.id[0] in "de"]
            every = opened.search("w11 w12 w13", 99, passages=True)
            assert len(every) == manifest.rows
            assert not any(hit.id.startswith(("d1", "other")) for hit in every)
            assert opened.vectors(["long#4"]).hs.shape == (1, 24)
            assert opened.documents(["other", "d1", "d1#1"]) == {}
            assert opened.passages(["d1", "d1#1", "d0#2"]).keys() == {"d0#2"}
            assert set(opened.ids()) == {hit.id for hit in every}


def test_a_run_is_reranked_over_split_documents(split: Path) -> None:
    add(split, [Document("d0", f"{LONG} v0.", {"kind": "n"})])
    delete_documents(split, ["other"])
    with Index.open(split, FakeEncoder()) as opened:
        hits = opened.search("w11 w12 w13", 9)
        assert sorted(hit.id for hit in hits) == ["d0", "long", "short"]
        # In the order of the index, which decides between equals.
        lines = [RunLine("q", name, 1, 0.0, source="r:1") for name in ("short", "long", "d0")]
        (found,) = rerank_run([("q", lines)], {"q": "w11 w12 w13"}, opened, FakeEncoder())
        assert [hit.id for hit in found.hits] == [hit.id for hit in hits]
        np.testing.assert_allclose(
            [hit.score for hit in found.hits], [hit.score for hit in hits], atol=1e-6
        )
        gone = [RunLine("q", "other", 1, 0.0, source="r:9")]
        with pytest.raises(CorpusError, match=r"r:9: document 'other' is not in the index"):
            list(rerank_run([("q", gone)], {"q": "w11"}, opened, FakeEncoder()))


def test_an_interrupted_add_of_split_documents(split: Path) -> None:
    new = [Document(f"d{i}", f"{LONG} v{i}. " + "w50 " * (i % 13)) for i in range(40)]
    interrupted(split, new, 15)
    assert len(Manifest.read(split).segments) == 1
    encoder = FakeEncoder()
    add(split, new, encoder)
    with Index.open(split) as opened:
        old = [document for document, _ in opened.in_order()][:3]
    assert held(split)[3:] == expected_of(new, "10")
    assert [document.id for document in old] == ["short", "long", "other"]
    sound(split)
