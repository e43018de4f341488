"""Words and vectors in one exact search: the postings on disk, BM25, and what a search makes of it,
against brute force in float64."""

from __future__ import annotations

import io
import itertools
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import one_line_error, run
from golden_index import STORED
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import fake_documents, prepared, without_postings
from fakes.word_encoder import FakeEncoder
from moee_index.errors import IndexDamagedError, MisuseError
from moee_index.fusion import Method
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
from moee_index.index.lexical import runs, scores, write
from moee_index.index.lexical.postings import Postings
from moee_index.index.lexical.words import Words
from moee_index.index.store.checksums import piece_crcs
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.types import Document

METHODS: tuple[Method, ...] = ("sum", "concat", "hs", "rw")

# The file


def written(texts: Sequence[str]) -> bytes:
    file = io.BytesIO()
    with runs.Runs(Words(), None) as collected:
        for text in texts:
            collected.add(text)
        write.merge(file, np.frombuffer(collected.lengths, np.uint32), collected.finish())
    return file.getvalue()


def opened(content: bytes, folder: Path, rows: int) -> Postings:
    path = folder / f"{hash(content)}.postings"
    path.write_bytes(content)
    return Postings(path, piece_crcs(path), rows)


texts = st.lists(
    st.lists(st.sampled_from(["a", "b", "é", "日本語", "e-mail", *(f"w{i}" for i in range(30))]))
    .map(" ".join)
    .map(lambda text: text + " a" * (300 if "w7" in text else 0)),
    max_size=25,
)  # fmt: skip


@settings(deadline=None)
@given(texts, st.integers(1, 60), st.integers(1, 50), st.data())
def test_postings_hold_what_the_texts_do(
    tmp_path_factory: pytest.TempPathFactory,
    held: list[str],
    words_of_a_run: int,
    at_a_time: int,
    data: st.DataObject,
) -> None:
    """Whatever the runs; joined with others, without some of their rows, as if written at once."""
    folder = tmp_path_factory.mktemp("postings")
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, write):
            patch.setattr(module, "AT_A_TIME", at_a_time)
        whole = written(held)
        patch.setattr(runs, "_WORDS", words_of_a_run)
        assert written(held) == whole
        # Long texts are counted by themselves, in the same places.
        patch.setattr(runs, "_LONG", data.draw(st.integers(0, 200), "long"))
        assert written(held) == whole
        postings = opened(whole, folder, len(held))
        counts = [Counter(Words().terms(text)) for text in held]
        assert postings.lengths.tolist() == [count.total() for count in counts]
        terms = sorted(set().union(*counts))
        assert [term.decode() for term in postings.terms()] == terms
        for term in (*terms, "", "nowhere"):
            span = postings.find(term)
            expected = {i: count[term] for i, count in enumerate(counts) if count[term]}
            if span is None:
                assert not expected
            else:
                assert postings.rows(span).tolist() == list(expected)
                assert postings.counts(span).tolist() == list(expected.values())
        kept = [data.draw(st.booleans()) for _ in held]
        other = data.draw(texts)
        sources = [
            (postings, np.flatnonzero(kept)),
            (opened(written(other), folder, len(other)), None),
        ]
        write.merge_postings(folder, sources, 7)
        left = [text for text, one in zip(held, kept, strict=True) if one]
        assert (folder / "lexical-0007.postings").read_bytes() == written([*left, *other])


def test_a_file_of_postings_that_lies(tmp_path: Path) -> None:
    """Right checksums, wrong content: as another program would write it."""
    content = written(["a b", "b"])
    for altered in (
        b"moeewrd?" + content[8:],
        content[:8] + b"\2" + content[9:],
        content[:16] + b"\3" + content[17:],
        content + bytes(8),
        content[:30],
    ):
        with pytest.raises(IndexDamagedError, match=r"is damaged .* --lexical"):
            opened(altered, tmp_path, 2).find("a")
    altered = bytearray(content)
    altered[-8:] = (99).to_bytes(8, "little")
    with pytest.raises(IndexDamagedError, match="vocabulary end elsewhere"):
        opened(bytes(altered), tmp_path, 2).find("b")


# The search

WORDS = [f"w{number}" for number in range(60)]


def sample(count: int, seed: int = 3) -> list[Document]:
    """Texts of 1 to 30 words, of which the first are in most and the last in few."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1)
    share /= share.sum()
    return [
        Document(
            f"s{seed}-{number}",
            " ".join(rng.choice(WORDS, rng.integers(1, 31), p=share)),
            {"x": number % 7},
            title=f"title {number % 11}" if number % 3 == 0 else "",
        )
        for number in range(count)
    ]


def bm25(documents: Sequence[Document], query: str) -> list[float]:
    """Of each document, as the formula has it."""
    return _bm25(tuple(document.content for document in documents), query)


@cache
def _bm25(texts: tuple[str, ...], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    held = [Counter(text.split()) for text in texts]
    average = sum(count.total() for count in held) / max(len(held), 1)
    found = []
    for count in held:
        score = 0.0
        for word in query.split():
            frequency = sum(word in one for one in held)
            idf = math.log(1 + (len(held) - frequency + 0.5) / (frequency + 0.5))
            length = k1 * (1 - b + b * count.total() / average)
            score += idf * count[word] / (count[word] + length) if count[word] else 0.0
        found.append(score)
    return found


_known: dict[Any, dict[str, float]] = {}


def similarities(
    index: Index, query: str, count: int, method: Method, alpha: float | None
) -> dict[str, float]:
    """Scores of all documents without words."""
    key = index.directory, index.manifest.revision, query, method, alpha
    if key not in _known:
        hits = index.search(query, count, method=method, alpha=alpha)
        _known[key] = {hit.id: hit.score for hit in hits}
    return _known[key]


def check(index: Index, documents: Sequence[Document], query: str, **options: Any) -> Hits:
    """The hits of a search, which are those of brute force over the similarities of all."""
    given = {"k": 10, "method": "sum", "lexical": 0.4, "min_score": None, **options}
    k, method, weight = given.pop("k"), given["method"], given["lexical"]
    alpha = given.get("alpha")
    hits = index.search(query, k, **given)
    every = similarities(index, query, len(documents), method, alpha)
    by_words = dict(zip((one.id for one in documents), bm25(documents, query), strict=True))
    largest = max(by_words.values(), default=0.0) or 1.0
    span = 1 + (index.alpha if alpha is None else alpha) if method == "sum" else 1
    expected = {
        document.id: (1 - weight) * every[document.id] / span
        + weight * by_words[document.id] / largest
        for document in documents
        if (weight < 1 or by_words[document.id])
        and (given.get("filter") is None or document.metadata["x"] < 3)
    }
    if given["min_score"] is not None:
        expected = {one: score for one, score in expected.items() if score >= given["min_score"]}
    assert hits.exact
    assert len(hits) == min(k, len(expected))
    best = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=3e-7)
    np.testing.assert_allclose([hit.score for hit in hits], [expected[h.id] for h in hits], 0, 3e-7)
    contents = {document.id: document.content for document in documents}
    for hit in hits:
        assert hit.bm25 == pytest.approx(by_words[hit.id], abs=1e-12)
        assert hit.lexical == pytest.approx(by_words[hit.id] / largest, abs=1e-12)
        text = contents[hit.id].split()
        assert hit.words == tuple(dict.fromkeys(word for word in query.split() if word in text))
        assert math.isnan(hit.hs) == math.isnan(hit.rw) == (weight == 1)
    order = {document.id: number for number, document in enumerate(documents)}
    for one, following in itertools.pairwise(hits):
        assert (-one.score, order[one.id]) < (-following.score, order[following.id])
    return hits


@pytest.fixture(scope="module")
def some() -> list[Document]:
    return sample(700)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, some: list[Document]) -> Path:
    directory = tmp_path_factory.mktemp("large") / "i"
    build_index(directory, some[:500], FakeEncoder())
    add_documents(directory, some[500:], FakeEncoder())
    return directory


QUERIES = [
    "w0",
    "w0 w1 w2",
    "w59",
    "w0 w1 w58",
    "w0 w0 w30 w41 w52",
    " ".join(WORDS[:20]),
    " ".join(WORDS[::3]),
    "title w3",
    "nowhere",
]


@pytest.mark.parametrize("weight", [1e-6, 0.4, 0.999, 1.0])
def test_the_best_are_those_of_brute_force(
    large: Path, some: list[Document], weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words put off or not, few or many hits, filtered or not, blocks of any size."""
    ways: tuple[tuple[float, int | None, int, int], ...] = (
        (0.0, None, 64, 1 << 14),
        (0.05, 97, 64, 1 << 14),
        (0.9, 97, 1, 1 << 14),
        (0.9, 50, 64, 3),
    )
    for share, block, first, left in ways:
        monkeypatch.setattr(scores, "_SHARE", share)
        monkeypatch.setattr(scores, "_FIRST", first)
        monkeypatch.setattr(scores, "_MOST_LEFT", left)
        with Index.open(large, FakeEncoder(), block_rows=block) as index:
            for query, k in itertools.product(QUERIES, (1, 10)):
                check(index, some, query, lexical=weight, k=k)
                check(index, some, query, lexical=weight, k=k, filter="x < 3")
            check(index, some, QUERIES[1], lexical=weight, k=1000)
            for query in QUERIES:
                check(index, some, query, lexical=weight, k=40)
            for k in (150, 200, 220, 300):
                check(index, some, QUERIES[7], lexical=weight, k=k)
            for method in METHODS:
                check(index, some, QUERIES[3], lexical=weight, method=method)
            check(index, some, QUERIES[4], lexical=weight, alpha=0.0)
            check(index, some, QUERIES[4], lexical=weight, alpha=3.5, min_score=0.25)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("first", [1, 64])
def test_words_that_are_put_off_change_nothing(
    large: Path, share: float, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: the largest score, the score of each row, and the best by words alone."""
    monkeypatch.setattr(scores, "_FIRST", first)
    rng = np.random.default_rng(5)
    put_off = 0
    with Index.open(large) as index:
        statistics = index.snapshot.statistics
        for _ in range(150):
            query = " ".join(rng.choice(WORDS, rng.integers(2, 7)))
            monkeypatch.setattr(scores, "_SHARE", 0.0)
            whole = scores.QueryScores(query, statistics, scores.Bm25())
            monkeypatch.setattr(scores, "_SHARE", share)
            found = scores.QueryScores(query, statistics, scores.Bm25())
            put_off += found.slack > 0
            assert found.largest == whole.largest
            pairs = zip(found.segments, whole.segments, strict=True)
            for number, (part, complete) in enumerate(pairs):
                rows = np.arange(len(part._words.postings.lengths))
                every = complete.partly(rows)
                assert (part.exact(rows) == every).all()
                assert (part.partly(rows) + found.slack + 1e-12 >= every).all()
                allowed = rng.random(len(rows)) < 0.7
                every = np.where(allowed, every, 0.0)
                for k in (1, 3, 20, 60, 120, 400):
                    best, _ = scores.PartScores([found], number, 1.0).ranked(0, k, allowed)
                    in_order = np.argsort(
                        -(every / (whole.largest or 1)).astype(np.float32), kind="stable"
                    )
                    expected = in_order[:k][every[in_order[:k]] > 0]
                    assert best.tolist() == expected.tolist()
    assert put_off >= 5


def test_many_queries_answer_as_one_by_one(large: Path) -> None:
    """In bfloat16 where that is faster, in blocks of queries, and each on its own."""
    with Index.open(large, FakeEncoder()) as index:
        queries = [f"{query} w{number % 40}" for number, query in enumerate(QUERIES * 40)]
        for weight in (0.4, 1.0):
            together = index.search(queries, 3, lexical=weight)
            assert together[:20] == [index.search(one, 3, lexical=weight) for one in queries[:20]]
            assert together[-3:] == [index.search(one, 3, lexical=weight) for one in queries[-3:]]
        assert index.search([], lexical=0.4) == []


def test_scores_are_those_of_an_index_built_anew(tmp_path: Path, some: list[Document]) -> None:
    """To the bit, after any history; and a filter, k and the number of segments change none."""
    encoder = FakeEncoder()
    options: dict[str, Any] = {"standardize": "none"}
    build_index(tmp_path / "i", some[:90], encoder, **options)
    add_documents(tmp_path / "i", some[90:130], encoder)
    delete_documents(tmp_path / "i", [one.id for one in some[10:40]])
    changed = [replace(one, text=f"{one.text} w58 w59") for one in some[60:70]]
    add_documents(tmp_path / "i", [*changed, *some[130:160]], encoder, update=True)
    now = [*some[:10], *some[40:60], *some[70:130], *changed, *some[130:160]]
    build_index(tmp_path / "new", now, encoder, **options)

    def found(directory: Path) -> list[Any]:
        with Index.open(directory, encoder) as index:
            for query in QUERIES[:4]:
                check(index, now, query)
                every = {hit.id: hit for hit in index.search(query, 999, lexical=0.4)}
                for hit in index.search(query, 5, lexical=0.4, filter="x < 3"):
                    assert hit.score == every[hit.id].score
            return [
                index.search(query, 999, lexical=weight, method=method)
                for query in QUERIES
                for weight in (0.3, 1.0)
                for method in METHODS
            ]

    expected = found(tmp_path / "new")
    assert found(tmp_path / "i") == expected
    compact_index(tmp_path / "i")
    assert found(tmp_path / "i") == expected
    reindex(tmp_path / "i", standardize="none")
    reindex_lexical(tmp_path / "i")
    assert found(tmp_path / "i") == expected
    (name,) = (path.name for path in (tmp_path / "i").glob("*/lexical-*.postings"))
    files = [next(tmp_path.glob(f"{one}/*/lexical-*.postings")) for one in ("i", "new")]
    assert files[0].read_bytes() == files[1].read_bytes(), name


def test_passages_are_found_by_their_words(tmp_path: Path) -> None:
    documents = [
        Document("a", " ".join(f"w{number}" for number in range(40)), title="head"),
        Document("b", "w3 w4", title="w99"),
    ]
    build_index(tmp_path / "i", documents, FakeEncoder(), chunk="8:2")
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        (first,) = index.search("w35", 1, lexical=1)
        assert (first.id, first.lexical, first.words) == ("a", 1.0, ("w35",))
        assert first.passage is not None and "w35" in first.text
        # A title is part of every passage.
        assert len(index.search("head", 99, lexical=1, passages=True)) == index.manifest.rows - 1
        assert [hit.id for hit in index.search("head w99", 99, lexical=1)] == ["b", "a"]
        assert [hit.id for hit in index.search("w35", 9, lexical=1, filter='id = "b"')] == []


@pytest.mark.parametrize("kind", ["HNSW8", "SQ8"])
def test_approximate_indexes(tmp_path: Path, some: list[Document], kind: str) -> None:
    """What words favour most is found whatever the lists hold; scores are exact."""
    build_index(tmp_path / "i", some[:300], FakeEncoder(), index_type=kind)
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        for query in QUERIES:
            check(index, some[:300], query, k=300)
            check(index, some[:300], query, lexical=1.0)
            top = index.search(query, 5, lexical=0.9)
            every = {hit.id: hit for hit in index.search(query, 300, lexical=0.9)}
            assert [hit.score for hit in top] == [every[hit.id].score for hit in top]
            if query != "nowhere":
                assert max(hit.lexical or 0 for hit in top) == 1.0


def test_texts_without_words_and_queries_without_any(tmp_path: Path) -> None:
    documents = [Document("a", "w1 w2"), Document("b", "🙂"), Document("c", "--- w1")]
    build_index(tmp_path / "i", documents, FakeEncoder())
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        assert index.search("🙂 ???", lexical=1) == []
        plain, blended = index.search("🙂", 3), index.search("🙂", 3, lexical=0.4)
        assert [hit.id for hit in blended] == [hit.id for hit in plain]
        assert [hit.score for hit in blended] == pytest.approx([0.3 * h.score for h in plain])
        assert {hit.lexical for hit in blended} == {0.0}
        assert [hit.id for hit in index.search("w1", lexical=1)] == ["c", "a"]
    delete_documents(tmp_path / "i", ["a", "b", "c"])
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        assert index.search("w1", lexical=1) == index.search("w1", lexical=0.5) == []


# Its faces


def test_by_words_alone_no_model_is_loaded(large: Path) -> None:
    def load(spec: Any) -> Any:
        raise AssertionError("a model is loaded")

    with Index.open(large, load) as index:
        assert index.search("w3 w4", lexical=1)
        with pytest.raises(AssertionError, match="is loaded"):
            index.search("w3 w4", lexical=0.999)


def test_without_words_nothing_changes_and_nothing_is_read(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("postings are read")

    monkeypatch.setattr(Postings, "_bytes", refused)
    with Index.open(large, FakeEncoder()) as index:
        hits = index.search("w3 w4", 3)
        assert hits == index.search("w3 w4", 3, lexical=0)
        assert {(hit.lexical, hit.bm25, hit.words) for hit in hits} == {(None, None, None)}


def test_what_is_out_of_range(large: Path) -> None:
    with Index.open(large, FakeEncoder()) as index:
        for name, wrong in (
            *(("lexical", wrong) for wrong in (2, -0.1, math.nan, math.inf, "0.4", True)),
            *(("k1", wrong) for wrong in (-1, math.nan, math.inf, "1")),
            *(("b", wrong) for wrong in (-0.1, 1.1, math.nan)),
        ):
            with pytest.raises(MisuseError, match=rf"^{name} is .* must be a finite number, 0"):
                index.search("w3", **{"lexical": 0.4, name: wrong})
        embeddings = FakeEncoder().encode(["w3", "w4"])
        for given in (None, [], ["w3"]):
            with pytest.raises(MisuseError, match="text of each query; give texts="):
                index.search_embeddings(embeddings, lexical=0.4, texts=given)
    with pytest.raises(MisuseError, match="language is 'xx'"):
        build_index(large.parent / "other", [], FakeEncoder(), language="xx")
    with pytest.raises(MisuseError, match="language is 'xx'"):
        reindex_lexical(large, language="xx")


def test_an_index_of_an_earlier_version(tmp_path: Path) -> None:
    """It opens, answers, is added to and compacted as before; words come by `reindex --lexical`,
    which changes nothing else."""
    index = Path(shutil.copytree(STORED["plain"], tmp_path / "i"))
    before = (index / MANIFEST).read_bytes()
    assert json.loads(before)["version"] == 2
    hint = "no postings.*reindex .*--lexical writes them, and changes nothing else"
    for weight in (0.4, 1.0):
        with Index.open(index) as opened_index, pytest.raises(MisuseError, match=hint):
            opened_index.search("amber", lexical=weight, encoder=FakeEncoder(opened_index.spec))
    done = run("query", "amber", "--index", index, "--lexical", "1", status=2)
    assert "reindex" in one_line_error(done)
    assert (index / MANIFEST).read_bytes() == before
    files = {path: path.read_bytes() for path in index.rglob("segment-*/*")}
    assert "--lexical" not in run("reindex", index, "--lexical", "--language", "en").output
    assert {path: path.read_bytes() for path in files} == files
    assert verify_index(index, full=True).ok
    with Index.open(index) as opened_index:
        assert opened_index.info()["lexical"]["language"] == "en"
        assert opened_index.search("ambers", lexical=1)[0].words == ("ambers",)
    assert Manifest.read(index).standardizer == json.loads(before)["standardizer"]


def test_changes_of_an_index_without_postings(tmp_path: Path) -> None:
    prepared(tmp_path / "i")
    without_postings(tmp_path / "i")
    for change in (
        lambda: add_documents(tmp_path / "i", fake_documents(30)[24:], FakeEncoder()),
        lambda: delete_documents(tmp_path / "i", ["d0"]),
        lambda: compact_index(tmp_path / "i"),
        lambda: reindex(tmp_path / "i"),
    ):
        change()
        assert verify_index(tmp_path / "i", full=True).ok
        assert not list(tmp_path.rglob("lexical-*"))
        assert Manifest.read(tmp_path / "i").language is None


def test_the_language_stays(tmp_path: Path) -> None:
    """In what is added, joined and written anew, until another is asked for."""
    documents = [Document("a", "running shoes"), Document("b", "he runs")]
    index = tmp_path / "i"
    build_index(index, documents, FakeEncoder(), language="en")
    add_documents(index, [Document("c", "a runner ran")], FakeEncoder())
    add_documents(index, [Document("d", "RUN")], FakeEncoder())

    def found() -> list[str]:
        assert verify_index(index, full=True).ok
        with Index.open(index) as opened_index:
            hits = opened_index.search("runs", lexical=1)
            assert {hit.words for hit in hits} == {("runs",)}
            return sorted(hit.id for hit in hits)

    for change in (compact_index, reindex, reindex_lexical):
        assert found() == ["a", "b", "d"]
        change(index)
        assert Manifest.read(index).language == "en"
    assert found() == ["a", "b", "d"]
    reindex_lexical(index, language="none")
    assert found() == ["b"]
    with pytest.raises(Exception, match="language 'none' \\(now 'en'\\)"):
        build_index(index, documents, FakeEncoder(), language="en")


def test_words_of_other_rules_are_told_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postings of another Unicode or Snowball answer; a full check does not call them wrong, and
    `compact` writes them from the documents."""
    prepared(tmp_path / "i")
    monkeypatch.setattr(scores, "_SHARE", 0.0)
    path = tmp_path / "i" / MANIFEST
    manifest = Manifest.read(tmp_path / "i")
    other = [
        replace(entry, lexical=replace(entry.lexical, words="rules 0"))
        for entry in manifest.segments
        if entry.lexical
    ]
    path.write_bytes(replace(manifest, segments=tuple(other)).to_bytes())
    assert verify_index(tmp_path / "i", full=True).ok
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        assert index.search("w3", lexical=0.4)
        assert index.info()["lexical"]["made_by"] == ["rules 0"]
    compact_index(tmp_path / "i")
    (entry,) = Manifest.read(tmp_path / "i").segments
    assert entry.lexical is not None and entry.lexical.words == Words().identity
    assert verify_index(tmp_path / "i", full=True).ok


def test_postings_that_do_not_follow_from_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full check finds what checksums cannot, and `reindex --lexical` mends it."""
    build_index(tmp_path / "i", fake_documents(30), FakeEncoder())
    build_index(tmp_path / "j", [*fake_documents(29), Document("x", "w1")], FakeEncoder())
    for name in ("lexical-0001.postings", "lexical-0001.crc"):
        shutil.copy(tmp_path / "j/segment-0001" / name, tmp_path / "i/segment-0001" / name)
    manifest = Manifest.read(tmp_path / "i")
    files = {name: one for name, one in manifest.files.items() if "lexical" not in name}
    altered = replace(manifest, files=files).with_segments(tmp_path / "i", manifest.segments)
    altered.write(tmp_path / "i")
    assert verify_index(tmp_path / "i").ok
    (problem,) = verify_index(tmp_path / "i", full=True).problems
    assert "lexical-0001.postings does not follow from the documents" in problem
    assert "reindex --lexical" in problem
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    (problem,) = verify_index(tmp_path / "i", full=True).problems
    assert "cannot be compared with its documents" in problem and "TMPDIR" in problem
    monkeypatch.undo()
    reindex_lexical(tmp_path / "i")
    assert verify_index(tmp_path / "i", full=True).ok


def test_the_command_line(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(
        '{"id": "a", "text": "The ferry was late because of the fog."}\n'
        '{"id": "b", "text": "Bakeries on the corner close at noon."}\n'
    )
    index = tmp_path / "i"
    run("build", corpus, "--index", index, "--language", "en")
    table = run("query", "bakery fog", "--index", index, "--lexical", "0.4").stdout
    assert " hs " in table and " words 1.000 " in table
    alone = run("query", "bakery fog", "--index", index, "--lexical", "1").stdout
    assert " hs " not in alone and " words 1.000 " in alone
    answer = json.loads(run("query", "bakery", "--index", index, "--lexical", "1", "--json").stdout)
    (hit,) = answer["hits"]
    assert answer["lexical"] == 1.0
    assert (hit["id"], hit["hs"], hit["rw"], hit["lexical"], hit["words"]) == (
        "b", None, None, 1.0, ["bakery"],
    )  # fmt: skip
    asked = ("query", "bakery", "--index", index, "--lexical", "0", "--json")
    plain = json.loads(run(*asked).stdout)
    assert "lexical" not in plain
    names = ["rank", "id", "score", "hs", "rw", "text", "metadata", "snippet", "marks"]
    assert list(plain["hits"][0]) == names
    (line,) = (line for line in run("info", index).stdout.splitlines() if line.startswith("words"))
    assert " 15, language en, postings" in line
    for arguments, told in (
        (("query", "x", "--lexical", "2"), "lexical is 2.0"),
        (("query", "x", "--lexical", "nan"), "lexical is nan"),
        (("query", "x", "--lexical", "0.4", "--k1", "-1"), "k1 is -1.0"),
        (("query", "x", "--lexical", "0.4", "--b", "2"), "b is 2.0"),
    ):
        assert told in one_line_error(run(*arguments, "--index", index, status=2))
    for arguments, told in (
        (("--language", "en"), "give --lexical with it"),
        (("--lexical", "--standardize", "rw"), "leave these out"),
        (("--lexical", "--language", "english"), "language is 'english'"),
    ):
        assert told in one_line_error(run("reindex", index, *arguments, status=2))
