"""Reranking: the rule of standardising, order, ties, inputs in their forms, blocks of lists."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.errors import CorpusError, MisuseError
from moee_index.fusion import Method, Standardizer
from moee_index.index.snapshot import Passage
from moee_index.readers.candidates import Candidate, CandidateList, as_documents, read_candidates
from moee_index.readers.trec import PassedOver, RunLine
from moee_index.reranking import StoredTexts, rerank, rerank_lists, rerank_run
from moee_index.types import Document, Embeddings, EncoderSpec, EncodingPlan

HS, RW = 8, 6


class FakeEncoder:
    """Each text has random vectors of its own; counts what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []

    @property
    def spec(self) -> EncoderSpec:
        raise NotImplementedError

    @property
    def batch_tokens(self) -> int:
        return 1024

    def with_batch_tokens(self, batch_tokens: int) -> FakeEncoder:
        return self

    def plan(self, texts: Sequence[str], *, query: bool = False) -> EncodingPlan:
        raise NotImplementedError

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        self.calls.append((len(texts), query))
        rows = [vector(f"query {text}" if query else text) for text in texts]
        both = np.array(rows, dtype=np.float32).reshape(len(texts), HS + RW)
        return Embeddings(both[:, :HS], both[:, HS:])


def vector(text: str) -> np.ndarray[Any, Any]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return np.random.default_rng(seed).normal(size=HS + RW) + np.arange(HS + RW)


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return cast("np.ndarray[Any, Any]", rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def expected(
    query: str, texts: Sequence[str], method: Method, alpha: float, standardised: bool
) -> np.ndarray[Any, Any]:
    """Scores by the definition (paper, section 3), in float64."""
    rows = np.array([vector(t) for t in texts]).astype(np.float32).astype(np.float64)
    asked = vector(f"query {query}").astype(np.float32).astype(np.float64)
    if standardised:
        mean, deviation = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        rows, asked = (rows - mean) / deviation, (asked - mean) / deviation
    if method == "concat":
        return cast("np.ndarray[Any, Any]", unit(rows) @ unit(asked))
    hs = unit(rows[:, :HS]) @ unit(asked[:HS])
    rw = unit(rows[:, HS:]) @ unit(asked[HS:])
    return cast("np.ndarray[Any, Any]", {"hs": hs, "rw": rw, "sum": hs + alpha * rw}[method])


@pytest.mark.parametrize("n", [1, 63, 64, 100])
@pytest.mark.parametrize("method", ["hs", "rw", "concat", "sum"])
def test_scores_follow_the_definition(n: int, method: Method) -> None:
    texts = [f"text {i}" for i in range(n)]
    alpha = 0.7 if method == "sum" else None
    hits = rerank("a query", texts, FakeEncoder(), method=method, alpha=alpha)
    scores = expected("a query", texts, method, 0.7, standardised=n >= 64)
    assert [h.rank for h in hits] == list(range(1, n + 1))
    assert [h.id for h in hits] == [str(i) for i in np.argsort(-scores, kind="stable")]
    assert [h.score for h in hits] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    if method == "sum":
        assert all(h.score == pytest.approx(h.hs + 0.7 * h.rw, abs=1e-6) for h in hits)


def test_asking_for_standardising_overrules_the_number() -> None:
    texts = [f"text {i}" for i in range(10)]
    for which, standardised in (("both", True), ("none", False)):
        hits = rerank("q", texts, FakeEncoder(), standardize=cast("Any", which))
        scores = expected("q", texts, "sum", 1.0, standardised)
        assert [h.score for h in hits] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)


def test_a_frozen_standardizer_is_used_instead() -> None:
    texts = [f"text {i}" for i in range(100)]
    frozen = Standardizer.fit(FakeEncoder().encode(texts))
    alone = rerank("q", texts[:3], FakeEncoder(), standardizer=frozen)
    among = {h.id: h.score for h in rerank("q", texts, FakeEncoder())}
    assert {h.id: h.score for h in alone} == {str(i): among[str(i)] for i in range(3)}
    with pytest.raises(MisuseError, match="leave one of them out"):
        rerank("q", texts, FakeEncoder(), standardizer=frozen, standardize="both")


def test_equal_scores_stay_in_candidate_order_at_the_cut_too() -> None:
    texts = ["same", "other", "same", "same", "more"]
    hits = rerank("q", texts, FakeEncoder())
    same = [h.id for h in hits if h.text == "same"]
    assert same == ["0", "2", "3"]
    for k in range(1, 6):
        assert rerank("q", texts, FakeEncoder(), k=k) == hits[:k]
    assert rerank("q", texts, FakeEncoder(), k=99) == hits


def test_candidates_keep_ids_and_metadata() -> None:
    candidates: list[Candidate] = [
        "plain",
        {"id": 7, "text": "t", "title": "T", "year": 1},
        Document("x", "doc"),
    ]
    hits = {h.id: h for h in rerank("q", candidates, FakeEncoder())}
    assert set(hits) == {"0", "7", "x"}
    assert (hits["7"].text, hits["7"].metadata) == ("t", {"year": 1, "title": "T"})
    by_content = rerank("q", ["T t"], FakeEncoder())
    assert by_content[0].hs == hits["7"].hs, "title and text are embedded joined"


def test_no_candidates() -> None:
    encoder = FakeEncoder()
    assert rerank("q", [], encoder) == []
    (ranked,) = rerank_lists([CandidateList("q", [])], encoder)
    assert ranked.hits == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"query": " "}, "the query is empty"),
        ({"candidates": ["a", 3]}, "candidate 1: a number where a text"),
        ({"candidates": [{"id": "a"}]}, "candidate 0: no field 'text'"),
        ({"candidates": ["a", {"id": "0", "text": "b"}]}, "candidate 1: id '0' again"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 1.0, "method": "hs"}, "alpha"),
        ({"method": "best"}, "method"),
        ({"k": 0}, "k is 0"),
        ({"standardize": "all"}, "standardize is 'all'"),
    ],
)
def test_misuse(options: dict[str, Any], reason: str) -> None:
    arguments = {"query": "q", "candidates": ["a"], "encoder": FakeEncoder(), **options}
    with pytest.raises(MisuseError, match=reason):
        rerank(**arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"query": None},
        {"query": ["q"]},
        {"query": b"q"},
        {"query": "half \ud83d"},
        {"candidates": "a text"},
        {"candidates": None},
        {"candidates": {"text": "a"}},
        {"candidates": [b"a"]},
        {"encoder": None},
        {"encoder": "tiny"},
        {"standardizer": "frozen"},
        {"k": 2.0},
        {"k": True},
        {"k": "2"},
        {"alpha": "1"},
        {"alpha": np.nan},
        {"method": None},
        {"standardize": 1},
    ],
)
def test_what_is_no_argument_is_misuse(options: dict[str, Any]) -> None:
    arguments = {"query": "q", "candidates": ["a"], "encoder": FakeEncoder(), **options}
    with pytest.raises(MisuseError):
        rerank(**arguments)


def test_numbers_of_numpy_and_generators_are_arguments() -> None:
    texts = [f"text {i}" for i in range(5)]
    plain = rerank("q", texts, FakeEncoder(), k=2, alpha=0.5)
    odd = rerank("q", (t for t in texts), FakeEncoder(), k=np.int64(2), alpha=np.float32(0.5))  # type: ignore[arg-type]
    assert odd == plain
    assert rerank("q", np.array(texts), FakeEncoder(), k=2, alpha=0.5) == plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"run": "run.txt"},
        {"run": Path("run.txt")},
        {"run": None},
        {"queries": [("q1", "one")]},
        {"queries": None},
        {"queries": {"q1": None}},
        {"index": "indexes/news"},
        {"encoder": None},
    ],
)
def test_what_is_no_run_is_misuse(options: dict[str, Any]) -> None:
    index = FakeIndex([Document("d1", "text")])
    run = [("q1", [RunLine("q1", "d1", 1, 0.0)])]
    arguments = {"run": run, "queries": {"q1": "one"}, "index": index, "encoder": FakeEncoder()}
    with pytest.raises(MisuseError):
        list(rerank_run(**{**arguments, **options}))


def test_what_a_run_names_and_is_not_there_is_passed_over_and_counted() -> None:
    index, passed_over = FakeIndex([Document(f"d{i}", f"text {i}") for i in range(3)]), PassedOver()
    run = [
        ("q1", [RunLine("q1", name, n, 0.0) for n, name in enumerate(("d2", "dx", "d0"), 1)]),
        ("q2", [RunLine("q2", "dy", 1, 0.0)]),
    ]
    ranked = list(
        rerank_run(run, {"q1": "one", "q2": "two"}, index, FakeEncoder(), passed_over=passed_over)
    )
    assert [{hit.id for hit in each.hits} for each in ranked] == [{"d0", "d2"}, set()]
    assert passed_over.unknown == 2


def test_lists_are_embedded_together_and_equal_texts_once() -> None:
    lists = [
        CandidateList(f"query {i % 3}", as_documents([f"text {j}" for j in range(i, i + 4)]))
        for i in range(10)
    ]
    encoder = FakeEncoder()
    ranked = list(rerank_lists(lists, encoder))
    assert encoder.calls == [(13, False), (3, True)]
    assert [r.asked for r in ranked] == lists
    for asked, one in zip(lists, ranked, strict=True):
        assert one.hits == rerank(asked.query, asked.candidates, FakeEncoder())
        assert one.seconds > 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 12))
def test_blocks_change_nothing(sizes: list[int], block: int) -> None:
    lists = [
        CandidateList(f"q{i}", as_documents([f"{i} {j}" for j in range(size)]))
        for i, size in enumerate(sizes)
    ]
    encoder = FakeEncoder()
    found = [r.hits for r in rerank_lists(lists, encoder, block=block)]
    assert found == [rerank(one.query, one.candidates, FakeEncoder()) for one in lists]
    assert sum(n for n, query in encoder.calls if not query) == sum(sizes)


def test_block_of_one_answers_at_once() -> None:
    asked: list[str] = []

    def lists() -> Iterator[CandidateList]:
        for query in ("one", "two"):
            asked.append(query)
            yield CandidateList(query, as_documents(["a"]))

    ranked = rerank_lists(lists(), FakeEncoder(), block=1)
    next(ranked)
    assert asked == ["one"]


def test_too_few_candidates_are_told_once() -> None:
    told: list[str] = []
    short = CandidateList("q", as_documents(["a", "b"]))
    long = CandidateList("q", as_documents([f"text {i}" for i in range(64)]))
    list(rerank_lists([long, short, short], FakeEncoder(), tell=told.append))
    assert len(told) == 1
    assert "fewer than 64" in told[0]
    list(rerank_lists([short], FakeEncoder(), tell=told.append, standardize="none"))
    assert len(told) == 1


def test_the_package_offers_the_function_whatever_was_imported_before() -> None:
    import moee_index.reranking

    assert moee_index.reranking.rerank is rerank
    for _ in range(2):
        from moee_index import rerank as offered

        assert offered("q", ["a"], FakeEncoder())[0].id == "0"


# Beside an index


class FakeIndex:
    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = list(documents)
        rows = FakeEncoder().encode([d.content for d in documents])
        self.standardizer = Standardizer.fit(rows)
        self.alpha = 0.5

    def passages(self, ids: Sequence[str]) -> Mapping[str, Sequence[Passage]]:
        return {
            document.id: [Passage(document.id, document.text, document.metadata, row)]
            for row, document in enumerate(self._documents)
            if document.id in ids
        }

    def words(
        self, lexical: float | None = None, k1: float | None = None, b: float | None = None
    ) -> None:
        assert lexical is k1 is b is None

    def vectors_at(self, rows: Sequence[int]) -> Embeddings:
        return FakeEncoder().encode([self._documents[row].content for row in rows])


def test_an_index_is_what_a_run_needs() -> None:
    from moee_index.index import Index

    def fulfils(index: Index) -> StoredTexts:
        return index

    assert all(hasattr(Index, name) for name in ("alpha", "passages", "vectors_at")), fulfils


def test_a_run_takes_its_vectors_from_the_index() -> None:
    documents = [Document(f"d{i}", f"text {i}", title=f"T{i}") for i in range(100)]
    index, encoder = FakeIndex(documents), FakeEncoder()
    run = [
        ("q1", [RunLine("q1", f"d{i}", i, 0.0) for i in (5, 3, 8)]),
        ("q2", [RunLine("q2", f"d{i}", i, 0.0) for i in (1,)]),
    ]
    ranked = list(rerank_run(run, {"q1": "one", "q2": "two", "q3": "three"}, index, encoder))
    assert encoder.calls == [(2, True)], "no document is embedded again"
    assert [r.asked.query_id for r in ranked] == ["q1", "q2"]
    expected_hits = rerank(
        "one",
        [documents[i] for i in (5, 3, 8)],
        encoder,
        alpha=0.5,
        standardizer=index.standardizer,
    )
    assert ranked[0].hits == expected_hits
    assert ranked[0].alpha == 0.5, "the index's own"
    assert {h.id for h in ranked[0].hits} == {"d5", "d3", "d8"}
    assert ranked[0].hits[0].metadata["title"].startswith("T")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (RunLine("q9", "d1", 1, 0.0, source="r:1"), "r:1: query 'q9' is not among the queries"),
        (RunLine("q1", "dx", 1, 0.0, source="r:4"), "r:4: document 'dx' is not in the index"),
    ],
)
def test_unknown_ids_in_a_run(line: RunLine, reason: str) -> None:
    index = FakeIndex([Document(f"d{i}", f"text {i}") for i in range(3)])
    with pytest.raises(CorpusError, match=reason):
        list(rerank_run([(line.query_id, [line])], {"q1": "one"}, index, FakeEncoder()))


# Candidate files


def test_plain_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_bytes(b'\xef\xbb\xbfone\r\n\n  two \n{"text": 3}')
    (asked,) = read_candidates(path, query="q")
    assert [(d.id, d.text) for d in asked.candidates] == [
        ("0", "one"),
        ("2", "  two "),
        ("3", '{"text": 3}'),
    ]
    assert (asked.query, asked.query_id) == ("q", None)
    (same,) = read_candidates("-", query="q", stdin=io.BytesIO(path.read_bytes()))
    assert same == asked


def test_json_lines_of_one_query(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "text": "one", "lang": "en"}\n\n{"text": "two"}\n')
    (asked,) = read_candidates(path, query="q")
    assert asked.candidates == [Document("a", "one", {"lang": "en"}), Document("2", "two")]
    path.write_text('{"query": "other", "candidates": []}\n')
    with pytest.raises(CorpusError, match=r":1: this list has its own query"):
        list(read_candidates(path, query="q"))


def test_lists_with_their_queries(tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    lines = [
        {"query": "a", "candidates": ["x", {"id": 5, "text": "y", "title": "Y", "n": 1}]},
        {"query_id": 7, "query": "b", "candidates": [], "more": 1},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert list(read_candidates(path)) == [
        CandidateList("a", [Document("0", "x"), Document("5", "y", {"n": 1, "title": "Y"})]),
        CandidateList("b", [], "7"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "broken JSON"),
        ("[]", "a list where a JSON object belongs"),
        ('{"candidates": []}', "no field 'query', there are 'candidates'"),
        ('{"query": "q"}', "no field 'candidates'"),
        ('{"query": "q", "candidates": "x"}', "field 'candidates' is text, not a list"),
        ('{"query": " ", "candidates": []}', "the query is empty"),
        ('{"query": 1, "candidates": []}', "field 'query' is a number, not text"),
        ('{"query": "q", "candidates": ["a", null]}', "candidate 1: null where a text"),
        ('{"query": "q", "candidates": [{"text": 1}]}', "candidate 0: field 'text' is a number"),
        (
            '{"query": "q", "candidates": [{"text": "a", "id": 1}, {"text": "b", "id": "1"}]}',
            "candidate 1: id '1' again",
        ),
        ('{"query": "q", "candidates": [{"text": "a", "id": ""}]}', "field 'id' is empty"),
        ('{"query": "q", "query_id": [], "candidates": []}', "field 'query_id' is a list"),
    ],
)
def test_broken_lists_name_their_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "lists.jsonl"
    path.write_text('{"query": "good", "candidates": ["x"]}\n' + line + "\n")
    reader = read_candidates(path)
    assert next(reader).query == "good"
    with pytest.raises(CorpusError) as caught:
        next(reader)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)


def test_candidate_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        list(read_candidates(tmp_path / "missing"))
    with pytest.raises(MisuseError, match="the query is empty"):
        list(read_candidates("-", query="", stdin=io.BytesIO()))
