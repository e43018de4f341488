"""Random sequences of changes and searches against a plain dictionary, by brute force in float64.

Everything that an answer follows from is worked out here again: which documents there are and in
which order, which passages they have, which of them fulfil a filter, what standardising and the
four methods make of their vectors, what BM25 makes of their words. Only the frozen mean and
deviation are taken from the index, and after a reindex these are compared as well.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from paths import FAST

from fakes.word_encoder import FakeEncoder
from moee_index.errors import CorpusError, MisuseError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    reindex_lexical,
    verify_index,
)
from moee_index.index.hits import Hits
from moee_index.index.search import pair
from moee_index.types import Chunking, Document

METHODS = ("sum", "concat", "hs", "rw")
FILTERS: dict[str, Any] = {
    "x >= 3": lambda d: d["x"] >= 3,
    'kind = "a" or x in (1, 2)': lambda d: d["kind"] == "a" or d["x"] in (1, 2),
    'not kind = "a"': lambda d: d["kind"] != "a",
    'kind contains "b" and x < 5': lambda d: "b" in d["kind"] and d["x"] < 5,
    "x = 99": lambda d: False,
    "x exists": lambda d: True,
}
Vectors = npt.NDArray[np.float64]
Part = tuple[Vectors, Vectors, npt.NDArray[np.bool_]]

identifiers = st.integers(0, 25).map(lambda number: f"d{number}")
# Few words, so that many documents are equal or nearly so.
texts = st.lists(st.integers(0, 6), min_size=1, max_size=5).map(
    lambda words: " ".join(f"w{word}" for word in words)
)
long_texts = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(
    lambda words: " ".join(f"w{word}." if word % 5 == 0 else f"w{word}" for word in words)
)
metadata = st.fixed_dictionaries(
    {"x": st.integers(0, 6), "kind": st.sampled_from(["a", "b", "ab"])}
)


def cosines(rows: Vectors, asked: Vectors, shortest: float) -> tuple[Vectors, Vectors]:
    """Cosines of rows [n, d] with one query [d], 0 where either has no length; rows' lengths."""
    lengths = np.sqrt((rows**2).sum(axis=1))
    length = float(np.sqrt((asked**2).sum()))
    lengths[lengths < shortest] = 0.0
    length = 0.0 if length < shortest else length
    product = lengths * length
    return np.where(product > 0, rows @ asked / np.where(product > 0, product, 1.0), 0.0), lengths


class ChangingIndex(RuleBasedStateMachine):
    """model: id → document, in the order of the index. settings of the index: class attributes."""

    chunk: str | None = None
    index_type = "flat"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.directory = self.folder / "i"
        self.encoder = FakeEncoder()
        self.model: dict[str, Document] = {}
        self.standardize = "none"
        # Opened earlier, with what they answered then.
        self.readers: list[tuple[Index, list[Any]]] = []
        self.rows: dict[tuple[str, str], Any] = {}

    def teardown(self) -> None:
        for opened, before in self.readers:
            assert self.told(opened) == before
            opened.close()
        shutil.rmtree(self.folder)

    # What changes

    @initialize(data=st.data(), count=st.integers(3, 20), which=st.sampled_from(["both", "none"]))
    def build(self, data: st.DataObject, count: int, which: str) -> None:
        documents = [self.drawn(data, f"d{number}") for number in range(count)]
        build_index(
            self.directory, documents, self.encoder, standardize=which, window=4,
            chunk=self.chunk, index_type=self.index_type,
        )  # fmt: skip
        self.model = {document.id: document for document in documents}
        self.standardize = which

    def drawn(self, data: st.DataObject, identifier: str) -> Document:
        text = data.draw(long_texts if self.chunk else texts)
        return Document(identifier, text, data.draw(metadata))

    @rule(data=st.data(), ids=st.lists(identifiers, unique=True, max_size=8), update=st.booleans())
    def add(self, data: st.DataObject, ids: list[str], update: bool) -> None:
        """New documents, unchanged ones and others under ids that are there, as they come."""
        documents = [
            self.model[identifier]
            if identifier in self.model and data.draw(st.booleans())
            else self.drawn(data, identifier)
            for identifier in ids
        ]
        same = [one for one in documents if self.model.get(one.id) == one]
        others = [one for one in documents if one not in same and one.id in self.model]
        if others and not update:
            with pytest.raises(CorpusError, match=f"{others[0].id!r}.*--update"):
                add_documents(self.directory, documents, self.encoder)
            return
        report = add_documents(self.directory, documents, self.encoder, update=update)
        assert (report.unchanged, report.updated) == (len(same), len(others))
        assert report.added == len(documents) - len(same) - len(others)
        for document in documents:
            if document not in same:
                self.model.pop(document.id, None)
                self.model[document.id] = document
        assert report.documents == len(self.model)

    @rule(ids=st.lists(identifiers, min_size=1, max_size=12), missing_ok=st.booleans())
    def delete_any(self, ids: list[str], missing_ok: bool) -> None:
        self.delete(ids, missing_ok)

    def delete(self, ids: list[str], missing_ok: bool) -> None:
        there = {identifier for identifier in ids if identifier in self.model}
        if not missing_ok and there != set(ids):
            with pytest.raises(MisuseError, match="nothing was deleted"):
                delete_documents(self.directory, ids)
            return
        report = delete_documents(self.directory, ids, missing_ok=missing_ok)
        assert report.changed == len(there)
        for identifier in there:
            del self.model[identifier]

    @precondition(lambda self: len(self.model) > 2)
    @rule(data=st.data())
    def delete_some(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(list(self.model)), min_size=1, max_size=4))
        self.delete(ids, False)

    @precondition(lambda self: len(self.model) > 8)
    @rule()
    def delete_all_but_one(self) -> None:
        ids = list(self.model)[1:]
        delete_documents(self.directory, ids)
        self.model = {key: value for key, value in self.model.items() if key not in ids}

    @rule(what=st.sampled_from(["compact", "compact", "both", "rw", "hs", "none", "words"]))
    def write_anew(self, what: str) -> None:
        """One rule, so that most searches meet segments with deletions."""
        if what == "compact":
            compact_index(self.directory)
        elif what == "words":
            reindex_lexical(self.directory)
        else:
            self.fit_anew(what)

    def fit_anew(self, which: str) -> None:
        reindex(self.directory, standardize=which)
        self.standardize = which
        rows = self.embeddings(list(self.model))
        with Index.open(self.directory) as opened:
            assert opened.standardizer.fitted == which
            arrays = opened.standardizer.to_arrays()
        for part, found in rows.items():
            if which not in ("both", part):
                assert f"{part}.mean" not in arrays
                continue
            values = np.concatenate(found) if found else np.zeros((0, 1))
            if not len(values):
                continue
            deviation = values.std(axis=0, ddof=1) if len(values) > 1 else values[0] * 0
            np.testing.assert_allclose(arrays[f"{part}.mean"], values.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(arrays[f"{part}.deviation"], deviation, atol=1e-12)

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def open_a_reader(self) -> None:
        opened = Index.open(self.directory)
        self.readers.append((opened, self.told(opened)))

    # What is asked

    def told(self, opened: Index) -> list[Any]:
        """What an opened index answers to some questions."""
        queries = self.encoder.encode(["w1 w2", "w3 w0"])
        return [
            list(opened.ids()),
            opened.search_embeddings(queries, 50),
            opened.search_embeddings(queries, 3, method="concat", filter="x >= 3"),
            opened.search_embeddings(queries, 9, lexical=0.5, texts=["w1 w2", "w3 w0"]),
            opened.documents(["d1", "d2", "nowhere"]),
        ]

    @rule(
        data=st.data(),
        alpha=st.sampled_from([0.0, 0.3, 1.0, 7.5]),
        k=st.integers(1, 60),
        condition=st.sampled_from(list(FILTERS)),
        block=st.sampled_from([1, 5, None]),
        passages=st.booleans(),
        lexical=st.sampled_from([0.0, 0.0, 0.01, 0.4, 0.999, 1.0]),
        bm25=st.sampled_from([(1.2, 0.75), (0.0, 0.75), (2.0, 0.0), (0.5, 1.0)]),
    )
    def search(
        self,
        data: st.DataObject,
        alpha: float,
        k: int,
        condition: str,
        block: int | None,
        passages: bool,
        lexical: float,
        bm25: tuple[float, float],
    ) -> None:
        """By all methods, with a filter and without."""
        query = data.draw(long_texts if self.chunk else texts)
        embedded = self.encoder.encode([query])
        with Index.open(self.directory, block_rows=block) as opened:
            for method, one in itertools.product(METHODS, (None, condition)):
                weight = alpha if method == "sum" else None
                (hits,) = opened.search_embeddings(
                    embedded, k, alpha=weight, method=method, filter=one, passages=passages,
                    lexical=lexical, k1=bm25[0], b=bm25[1], texts=[query],
                )  # fmt: skip
                arrays = opened.standardizer.to_arrays()
                self.check(hits, query, method, alpha, k, one, passages, arrays, lexical, bm25)

    def check(
        self,
        hits: Hits,
        query: str,
        method: str,
        alpha: float,
        k: int,
        condition: str | None,
        passages: bool,
        arrays: Any,
        lexical: float,
        bm25: tuple[float, float],
    ) -> None:
        """Hits are the best k by brute force, up to ties within rounding."""
        kept = [
            document
            for document in self.model.values()
            if condition is None or FILTERS[condition](document.metadata)
        ]
        scores = self.scores(kept, query, method, alpha, arrays)
        words, largest = self.words(query, *bm25)
        if lexical:
            span = 1 + alpha if method == "sum" else 1
            scores = [
                [
                    (1 - lexical) * score / span + lexical * word / (largest or 1)
                    # By words alone nothing is found that has none.
                    if lexical < 1 or word
                    else -math.inf
                    for score, word in zip(own, words[document.id], strict=True)
                ]
                for document, own in zip(kept, scores, strict=True)
            ]
        # Of each document its best passage, the first of equal ones.
        expected = {
            document.id: max(own)
            for document, own in zip(kept, scores, strict=True)
        }  # fmt: skip
        if passages:
            expected = {
                f"{document.id}#{number}" if len(own) > 1 else document.id: score
                for document, own in zip(kept, scores, strict=True)
                for number, score in enumerate(own, 1)
            }
        expected = {one: score for one, score in expected.items() if score > -math.inf}
        tolerance = 1e-6 * (1 + alpha)
        ids = [hit.id for hit in hits]
        assert len(set(ids)) == len(ids) == min(k, len(expected))
        assert set(ids) <= set(expected)
        found = np.array([hit.score for hit in hits])
        np.testing.assert_allclose(found, [expected[i] for i in ids], atol=tolerance, rtol=0)
        assert (np.diff(found) <= 0).all()
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        if hits.exact:
            left = [score for identifier, score in expected.items() if identifier not in ids]
            assert all(score <= found[-1] + tolerance for score in left)
            # Equal documents stand in the order of the index; passages of equal texts also.
            order = list(expected)
            for one, next_one in itertools.pairwise(hits):
                if one.score == next_one.score and (passages or self.chunk is None):
                    assert order.index(one.id) < order.index(next_one.id)
        assert hits.exact or self.index_type != "flat"
        for hit in hits:
            document = self.model[hit.id.split("#")[0]]
            assert hit.metadata == document.metadata
            assert hit.text in document.text
            if self.chunk is None:
                assert (hit.text, hit.passage) == (document.text, None)
            if not lexical:
                assert (hit.lexical, hit.bm25, hit.words) == (None, None, None)
                continue
            number = int((hit.passage or "").partition("#")[2] or 1)
            assert hit.bm25 == pytest.approx(words[document.id][number - 1], abs=1e-12)
            assert hit.lexical == pytest.approx(hit.bm25 / (largest or 1), abs=1e-12)
            assert hit.words == tuple(
                word for word in dict.fromkeys(re.findall(r"w\d+", query))
                if word in re.findall(r"w\d+", hit.text)
            )  # fmt: skip

    def words(self, query: str, k1: float, b: float) -> tuple[dict[str, list[float]], float]:
        """BM25 of each document's passages, over all documents that there are; the largest."""
        passages = {
            identifier: [re.findall(r"w\d+", text) for text in self.passages(identifier)]
            for identifier in self.model
        }
        every = [words for own in passages.values() for words in own]
        average = sum(map(len, every)) / max(len(every), 1)
        found = {identifier: [0.0] * len(own) for identifier, own in passages.items()}
        for word in re.findall(r"w\d+", query):
            frequency = sum(word in words for words in every)
            idf = math.log(1 + (len(every) - frequency + 0.5) / (frequency + 0.5))
            for identifier, own in passages.items():
                for number, words in enumerate(own):
                    count = words.count(word)
                    if count:
                        length = k1 * (1 - b + b * len(words) / average)
                        found[identifier][number] += idf * count / (count + length)
        return found, max((score for own in found.values() for score in own), default=0.0)

    def passages(self, identifier: str) -> list[str]:
        """The texts of a document's passages."""
        text = self.model[identifier].text
        if self.chunk is None:
            return [text]
        spans = self.encoder.passages([("", text)], Chunking.parse(self.chunk))[0]
        return [text[slice(*span)] for span in spans]

    def standardized(self, part: str, arrays: Any) -> bool:
        """Where nothing varied when it was fitted, a part is not standardised."""
        return self.standardize in ("both", part) and bool(arrays[f"{part}.kept"].any())

    def scores(
        self, documents: list[Document], query: str, method: str, alpha: float, arrays: Any
    ) -> list[list[float]]:
        """For each document the scores of its passages."""
        rows = self.embeddings([document.id for document in documents])
        if not documents:
            return []
        asked = self.encoder.vectors([query])
        parts: dict[str, tuple[Vectors, Vectors]] = {}
        for part in ("hs", "rw"):
            values = np.concatenate(rows[part])
            one = getattr(asked, part)[0].astype(np.float64)
            if self.standardized(part, arrays):
                mean, deviation, kept = (
                    arrays[f"{part}.{name}"] for name in ("mean", "deviation", "kept")
                )
                used = kept.astype(bool)
                values = (values - mean)[:, used] / deviation[used]
                one = (one - mean)[used] / deviation[used]
            parts[part] = values, one
        similar, lengths = {}, {}
        for part, (values, one) in parts.items():
            shortest = 1e-6 if self.standardized(part, arrays) else 1e-300
            similar[part], lengths[part] = cosines(values, one, shortest)
            if not lengths[part].all():
                values[lengths[part] == 0] = 0.0
            if np.sqrt((one**2).sum()) < shortest:
                one[:] = 0.0
        if method == "concat":
            values = np.concatenate([parts["hs"][0], parts["rw"][0]], axis=1)
            one = np.concatenate([parts["hs"][1], parts["rw"][1]])
            flat = cosines(values, one, 1e-300)[0]
        else:
            flat = {
                "hs": similar["hs"],
                "rw": similar["rw"],
                "sum": similar["hs"] + alpha * similar["rw"],
            }[method]
        ends = np.cumsum([len(found) for found in rows["hs"]])[:-1]
        return [[float(score) for score in own] for own in np.split(flat, ends)]

    def embeddings(self, ids: list[str]) -> dict[str, list[Vectors]]:
        """For each document the raw vectors of its passages, float64 [passages, d]."""
        found: dict[str, list[Vectors]] = {"hs": [], "rw": []}
        for identifier in ids:
            text = self.model[identifier].text
            if (identifier, text) not in self.rows:
                taken = self.encoder.vectors(self.passages(identifier))
                self.rows[identifier, text] = taken
            for part in ("hs", "rw"):
                found[part].append(getattr(self.rows[identifier, text], part).astype(np.float64))
        return found

    @invariant()
    def holds_what_it_should(self) -> None:
        if not self.directory.exists():
            return
        with Index.open(self.directory) as opened:
            assert len(opened) == len(self.model)
            assert [document.id for document, _ in opened.in_order()] == list(self.model)
            found = opened.documents([*self.model, "nowhere"])
            assert found.keys() == self.model.keys()
            for identifier, document in self.model.items():
                assert found[identifier].text == document.text
                assert found[identifier].metadata == document.metadata
        assert verify_index(self.directory, full=True).problems == []


class SplitIndex(ChangingIndex):
    chunk = "8:3"


class LinkedIndex(ChangingIndex):
    index_type = "HNSW8"


class QuantisedIndex(SplitIndex):
    index_type = "SQ8"


class ApproximateIndex(SplitIndex):
    index_type = "approx"


@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (ChangingIndex, 30),
        (SplitIndex, 20),
        (LinkedIndex, 10),
        (QuantisedIndex, 8),
        (ApproximateIndex, 8),
    ],
)
def test_random_changes(
    machine: type[ChangingIndex], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Indexes as small as these would be scanned.
    monkeypatch.setattr(pair, "SCANNED_ROWS", 0)
    monkeypatch.setattr(pair, "SCANNED_SHARE", 0)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
