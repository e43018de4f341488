"""Whatever happens to an index, and whatever its documents are called: every text has its own
vectors, and every id its own text."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import Interrupted, interrupt_at
from fakes.word_encoder import FakeEncoder
from moee_index.errors import CorpusError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    verify_index,
)
from moee_index.index.drift import measure_drift
from moee_index.tune.unlabelled import sample_pairs
from moee_index.types import Document

# Histories: FUZZ=50 tries fifty times as many.
_MANY = int(os.environ.get("FUZZ", "1"))
# Names that meet, or look alike, or that something between here and the disk might change.
IDS = [
    "a", "A", "a#1", "a#2", "a#1#1", "a#", "#1", "#", "a ", " a", "a\t", "a\n", "", " ", "a\x00",
    "a\x00b", "\x00", "é", "e\u0301", "\u212b", "\u00c5", "A\u030a", "\u0430", "\uff41", "ﬁ", "fi",
    "İ", "i", "ı", "\u200b", "a\u200b", "\ufeffa", "\u202ea", "😀", "😀\ufe0f", "1", "01", "1.0",
    "1e0", "NULL", "null", "'", '"', '"a"', "a'--", "%", "_", "a%", "?", "*", "[a]", "x" * 5000,
    "x" * 5001, "..", "/", "\\", "segment-0001",
]  # fmt: skip
# Of these none is what a passage of another one would be called.
SPLIT_IDS = [each for each in IDS if "#" not in each]
texts = st.lists(st.integers(0, 30), min_size=1, max_size=30).map(
    lambda words: " ".join(f"w{word}" for word in words)
)


@pytest.fixture
def directory() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield folder / "i"
    shutil.rmtree(folder)


def check(directory: Path, model: dict[str, str]) -> None:
    """The index holds these texts under these ids, each with the vectors that it alone gives."""
    encoder = FakeEncoder()
    with Index.open(directory, encoder) as index:
        seen = {}
        for document, rows in index.in_order():
            assert document.id not in seen
            seen[document.id] = document.text
            parts = [document.text[slice(*span)] for span in document.spans]
            own = encoder.vectors(parts)
            assert np.array_equal(rows.hs, own.hs) and np.array_equal(rows.rw, own.rw)
        assert seen == model
        stored = index.documents(list(model))
        assert {name: document.text for name, document in stored.items()} == model
        assert set(index.documents(IDS)) == set(model)
        whole = [name for name, document in stored.items() if len(document.spans) == 1]
        if whole:
            vectors, own = index.vectors(whole), encoder.vectors([model[name] for name in whole])
            assert np.array_equal(vectors.hs, own.hs) and np.array_equal(vectors.rw, own.rw)
        for name in list(model)[:2]:
            for hit in index.search(model[name], len(model)):
                assert model[hit.id] == hit.text or hit.text in model[hit.id]
            best = index.search(model[name].split()[0], 1, filter=None)[0]
            assert best.text in model[best.id]
        assert measure_drift(index.snapshot).rows >= 0
        if len(whole) == len(model) >= 3:
            assert sample_pairs(index)[0] == len(model)


def documents_of(data: st.DataObject, pool: list[str], most: int) -> list[Document]:
    ids = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=most, unique=True))
    return [Document(identifier, data.draw(texts)) for identifier in ids]


def added(directory: Path, model: dict[str, str], documents: list[Document], at: int) -> None:
    """Add documents, interrupted on the way and gone on with; replaced ones come last."""
    try:
        add_documents(directory, documents, interrupt_at(at), update=True)
    except Interrupted:
        add_documents(directory, documents, FakeEncoder(), update=True)
    for document in documents:
        if model.get(document.id) != document.text:
            model.pop(document.id, None)
            model[document.id] = document.text


@pytest.mark.parametrize("chunk", [None, "8:2"])
def test_every_text_keeps_its_own_vectors(chunk: str | None) -> None:
    pool = IDS if chunk is None else SPLIT_IDS

    @settings(max_examples=8 * _MANY)
    @given(data=st.data(), changes=st.lists(st.sampled_from("aaduurc"), max_size=6))
    def check_history(data: st.DataObject, changes: list[str]) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            history(folder / "i", data, changes)
        finally:
            shutil.rmtree(folder)

    def history(directory: Path, data: st.DataObject, changes: list[str]) -> None:
        documents = documents_of(data, pool, 25)
        options: dict[str, Any] = {"chunk": chunk, "window": data.draw(st.integers(1, 9))}
        try:
            build_index(directory, documents, interrupt_at(data.draw(st.integers(1, 6))), **options)
        except Interrupted:
            build_index(directory, documents, FakeEncoder(), **options)
        model = {document.id: document.text for document in documents}
        for change in changes:
            if change in "au":
                some = documents_of(data, pool if change == "a" else list(model) or pool, 6)
                added(directory, model, some, data.draw(st.integers(1, 4)))
            elif change == "d":
                gone = data.draw(st.lists(st.sampled_from(pool), max_size=5))
                delete_documents(directory, gone, missing_ok=True)
                model = {name: text for name, text in model.items() if name not in gone}
            elif change == "r":
                reindex(directory, standardize=data.draw(st.sampled_from(["both", "rw", "none"])))
            else:
                compact_index(directory)
            check(directory, model)
        check(directory, model)
        assert verify_index(directory, full=True).ok

    check_history()


def test_all_of_them_at_once(directory: Path) -> None:
    documents = [Document(name, f"w{number} w{number + 1}") for number, name in enumerate(IDS)]
    build_index(directory, documents, FakeEncoder(), window=7)
    check(directory, {document.id: document.text for document in documents})
    assert build_index(directory, documents, FakeEncoder()).unchanged
    with closing(Index.open(directory)) as index:
        assert list(index.ids()) == IDS


@pytest.mark.parametrize("explicit", [None, "both"])
def test_a_corpus_in_which_nothing_varies(directory: Path, explicit: str | None) -> None:
    """Equal texts are no reason to answer 0 to everything: nothing is standardised, and told."""
    told: list[str] = []
    documents = [Document(str(number), "w3 w4 w5") for number in range(64)]
    options: dict[str, Any] = {"standardize": explicit, "notify": told.append}
    build_index(directory, documents, FakeEncoder(), **options)
    (line,) = [each for each in told if each.startswith("standardize")]
    assert line == (
        "standardize none: no dimension of HS and RW varies over 64 rows, so there is no deviation "
        "to divide by"
    )
    with Index.open(directory, FakeEncoder()) as index:
        hits = index.search("w3 w4 w5", 3)
        assert [hit.id for hit in hits] == ["0", "1", "2"]
        assert [hit.score for hit in hits] == pytest.approx([2.0] * 3, abs=1e-6)
        info = index.info()
    assert info["standardize"] == "none"
    assert "varies" in info["drift"]["reason"] and not info["drift"]["refit"]
    assert verify_index(directory, full=True).ok
    # The same build is done; another is not.
    assert build_index(directory, documents, FakeEncoder(), **options).unchanged
    with pytest.raises(Exception, match="standardize"):
        build_index(directory, documents, FakeEncoder(), standardize="rw")
    more = [Document(f"n{number}", f"w{number}") for number in range(64)]
    add_documents(directory, more, FakeEncoder())
    with Index.open(directory) as index:
        drift = index.info()["drift"]
    assert drift["refit"] and "run moee-index reindex" in drift["reason"]
    assert reindex(directory, notify=told.append).standardize == "both"
    assert reindex(directory, standardize="rw").standardize == "rw"


def test_one_part_that_does_not_vary(directory: Path) -> None:
    class Constant(FakeEncoder):
        def vectors(self, given: Any) -> Any:
            found = super().vectors(given)
            found.rw[:] = 1.0
            return found

    told: list[str] = []
    documents = [Document(str(number), f"w{number} w{number + 1}") for number in range(64)]
    build_index(directory, documents, Constant(), notify=told.append)
    assert any(each.startswith("standardize hs: no dimension of RW varies") for each in told)
    with Index.open(directory, Constant()) as index:
        assert index.search("w7 w8", 1)[0].id == "7"
        assert index.info()["drift"]["rw"] is None
    assert verify_index(directory, full=True).ok
    assert build_index(directory, documents, Constant()).unchanged


def test_an_id_twice_is_refused_whatever_it_is(directory: Path) -> None:
    for name in IDS[::7]:
        documents = [Document(name, "w1"), Document("other", "w2"), Document(name, "w3")]
        with pytest.raises(CorpusError, match="already used"):
            build_index(directory, documents, FakeEncoder())
        shutil.rmtree(directory, ignore_errors=True)
