"""Search against a brute-force float64 reference: every method, ties, zero vectors, any k."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import FAST

from fakes.word_encoder import FakeEncoder, GivenEncoder, fake_spec
from moee_index.errors import FingerprintMismatchError, MisuseError, ModelError
from moee_index.index import Index
from moee_index.index.hits import Hits
from moee_index.types import Document, Embeddings

METHODS = ("hs", "rw", "concat", "sum")


def build(directory: Path, given: Embeddings, **options: Any) -> Index:
    documents = [Document(f"d{i}", str(i)) for i in range(len(given))]
    open_options = {"block_rows": options.pop("block_rows", None)}
    encoder = GivenEncoder(given)
    Index.build(directory, documents, encoder, **options).close()
    return Index.open(directory, encoder, **open_options)


def reference(given: Embeddings, query: Embeddings, which: str) -> dict[str, np.ndarray]:
    """sim_HS, sim_RW and concat of one query with every document, in float64."""
    parts = {}
    for name in ("hs", "rw"):
        rows = getattr(given, name).astype(np.float64)
        asked = getattr(query, name).astype(np.float64)
        if which in ("both", name):
            deviation = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
            used = (deviation > 0) & (deviation >= 1e-6 * np.median(deviation))
            scale = np.where(used, deviation, 1)
            mean = rows.mean(axis=0)
            if used.any():  # where nothing varies nothing is standardised
                rows, asked = ((x - mean) / scale * used for x in (rows, asked))
        parts[name] = rows, asked[0]

    def cosines(rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(asked)
        return np.where(lengths > 0, rows @ asked / np.where(lengths > 0, lengths, 1), 0)

    joined = np.concatenate([parts["hs"][0], parts["rw"][0]], axis=1)
    return {
        "hs": cosines(*parts["hs"]),
        "rw": cosines(*parts["rw"]),
        "concat": cosines(joined, np.concatenate([parts["hs"][1], parts["rw"][1]])),
    }


def check(hits: Hits, expected: np.ndarray, k: int, tolerance: float) -> None:
    """The hits are the reference's top k, up to ties within the tolerance; order among equals."""
    rows = [int(hit.id[1:]) for hit in hits]
    assert hits.exact
    assert len(set(rows)) == len(rows) == min(k, len(expected))
    assert [hit.rank for hit in hits] == list(range(1, len(rows) + 1))
    scores = np.array([hit.score for hit in hits])
    np.testing.assert_allclose(scores, expected[rows], atol=tolerance)
    assert (np.diff(scores) <= 0).all()
    left = np.setdiff1d(np.arange(len(expected)), rows)
    assert (expected[left] <= scores[-1] + tolerance).all()
    for earlier, later in itertools.pairwise(hits):
        assert earlier.score > later.score or int(earlier.id[1:]) < int(later.id[1:])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Embeddings, Embeddings]:
    """Documents with duplicates, zero rows, few dimensions, and 3 queries, some zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 90))
    parts = []
    for dim in (draw(st.integers(1, 9)), draw(st.integers(1, 5))):
        if draw(st.booleans()):
            rows = rng.integers(-2, 3, (n + 3, dim)).astype(np.float32)
        else:
            scale = 10.0 ** draw(st.integers(-3, 4))
            rows = (rng.standard_normal((n + 3, dim)) * scale).astype(np.float32)
        parts.append(rows)
    for _ in range(draw(st.integers(0, 3))):
        source, target = rng.integers(0, n + 3, 2)
        for rows in parts:
            rows[target] = rows[source]
    for _ in range(draw(st.integers(0, 2))):
        parts[rng.integers(0, 2)][rng.integers(0, n + 3)] = 0
    return (
        Embeddings(parts[0][:n].copy(), parts[1][:n].copy()),
        Embeddings(parts[0][n:].copy(), parts[1][n:].copy()),
    )


@settings(max_examples=60, deadline=None)
@given(
    made=corpora(),
    which=st.sampled_from(["both", "hs", "rw", "none"]),
    alpha=st.sampled_from([0.0, 0.1, 1.0, 3.7, 1000.0]),
    k=st.integers(1, 100),
    block=st.sampled_from([1, 3, 16, 17, 64, None]),
)
def test_search_equals_brute_force(
    made: tuple[Embeddings, Embeddings], which: str, alpha: float, k: int, block: int | None
) -> None:
    given_rows, queries = made
    with (
        tempfile.TemporaryDirectory(dir=FAST) as folder,
        build(Path(folder) / "i", given_rows, standardize=which, block_rows=block) as index,
    ):
        for method in METHODS:
            weight = alpha if method == "sum" else None
            found = index.search_embeddings(queries, k, alpha=weight, method=method)
            for place, hits in enumerate(found):
                query = Embeddings(queries.hs[place : place + 1], queries.rw[place : place + 1])
                expected = reference(given_rows, query, which)
                expected["sum"] = expected["hs"] + alpha * expected["rw"]
                check(hits, expected[method], k, 2e-6 * (1 + alpha if method == "sum" else 1))
                one = index.search_embeddings(query, k, alpha=weight, method=method)[0]
                assert list(one) == list(hits)


@pytest.fixture(scope="module")
def larger() -> Any:
    rng = np.random.default_rng(5)
    given_rows = Embeddings(
        rng.standard_normal((9000, 40), dtype=np.float32),
        rng.standard_normal((9000, 20), dtype=np.float32),
    )
    given_rows.hs[4000:4600] = given_rows.hs[17]
    given_rows.rw[4000:4600] = given_rows.rw[17]
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        build(Path(folder) / "i", given_rows).close()
        yield Path(folder) / "i", given_rows


@pytest.mark.parametrize(
    ("queries", "k"), [(1, 10), (3, 10), (20, 10), (1, 300), (20, 300), (1, 20_000), (3, 20_000)]
)
def test_many_queries_threads_and_ties_at_the_cut(larger: Any, queries: int, k: int) -> None:
    directory, given_rows = larger
    asked = Embeddings(given_rows.hs[17 : 17 + queries] + 0.01, given_rows.rw[17 : 17 + queries])
    with Index.open(directory, block_rows=None if k == 10 else 4100) as index:
        for method in METHODS:
            found = index.search_embeddings(asked, k, method=method)
            assert len(found) == queries
            for place in {0, queries - 1}:
                one = Embeddings(asked.hs[place : place + 1], asked.rw[place : place + 1])
                expected = reference(given_rows, one, "both")
                expected["sum"] = expected["hs"] + expected["rw"]
                check(found[place], expected[method], k, 4e-6)
            if k == 10:
                # 601 equal documents: the first ten of them, in their order.
                assert [hit.id for hit in found[0]] == [
                    "d17",
                    *(f"d{i}" for i in range(4000, 4009)),
                ]


def test_min_score_leaves_out_what_is_below(larger: Any) -> None:
    directory, given_rows = larger
    asked = Embeddings(given_rows.hs[:1], given_rows.rw[:1])
    with Index.open(directory) as index:
        everything = index.search_embeddings(asked, 9000)[0]
        some = index.search_embeddings(asked, 9000, min_score=0.5)[0]
        assert list(some) == [hit for hit in everything if hit.score >= 0.5]
        exactly = everything[20].score
        assert index.search_embeddings(asked, 9000, min_score=exactly)[0][-1].score == exactly
        assert index.search_embeddings(asked, 5, min_score=3.0) == [[]]


@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,Flat", "IVF8,PQ10x4", "SQ8", "PCA16,Flat"])
def test_approximate_types_rescore_what_they_find(
    tmp_path: Path, larger: Any, factory: str
) -> None:
    _, given_rows = larger
    some = Embeddings(given_rows.hs[6000:], given_rows.rw[6000:])
    with build(tmp_path / "i", some, index_type=factory) as index:
        assert index.info()["index_type"] == {"hs": factory, "rw": factory}
        for method in METHODS:
            query = Embeddings(some.hs[200:201], some.rw[200:201])
            hits = index.search_embeddings(query, 10, method=method)[0]
            expected = reference(some, query, "both")
            expected["sum"] = expected["hs"] + expected["rw"]
            assert not hits.exact
            assert hits[0].id == "d200"
            rows = [int(hit.id[1:]) for hit in hits]
            scores = [hit.score for hit in hits]
            np.testing.assert_allclose(scores, expected[method][rows], atol=2e-6)
            assert sorted(scores, reverse=True) == scores
            best = set(np.argsort(-expected[method], kind="stable")[:10].tolist())
            assert len(best & set(rows)) >= 5
        everything = index.search_embeddings(query, 5000)[0]
        assert everything.exact
        assert len(everything) == len(some)
        assert index.verify(full=True).ok


def test_the_same_rows_give_the_same_approximate_files(tmp_path: Path, larger: Any) -> None:
    _, given_rows = larger
    some = Embeddings(given_rows.hs[:700], given_rows.rw[:700])
    for factory in ("HNSW16", "IVF8,PQ4x4"):
        for name in ("a", "b"):
            build(tmp_path / factory / name, some, index_type=factory).close()
        for part in ("hs", "rw"):
            first, second = (
                (tmp_path / factory / name / f"segment-0001/{part}-0001.faiss").read_bytes()
                for name in ("a", "b")
            )
            assert first == second


@pytest.mark.parametrize("factory", ["nonsense", "PQ7", "IVF0,Flat", "IDMap,Flat", "", "LSH"])
def test_factory_strings_that_do_not_fit_are_misuse(tmp_path: Path, factory: str) -> None:
    with pytest.raises(MisuseError, match="index type"):
        build(tmp_path / "i", Embeddings(np.ones((3, 8)), np.ones((3, 4))), index_type=factory)
    assert not (tmp_path / "i").exists()


def test_queries_are_checked(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.build(tmp_path / "i", [Document("a", "some words")], encoder) as index:
        assert index.search("words")[0].id == "a"
        assert [hits[0].id for hits in index.search(["words", "some"])] == ["a", "a"]
        assert index.search([]) == []
        for wrong in ({"k": 0}, {"alpha": -1}, {"alpha": 1, "method": "hs"}, {"method": "x"}):
            with pytest.raises(MisuseError):
                index.search("words", **wrong)  # type: ignore[arg-type]
        for text in ("", "  \n"):
            with pytest.raises(MisuseError, match="empty"):
                index.search(text)
        with pytest.raises(MisuseError, match="shape"):
            index.search_embeddings(Embeddings(np.ones((1, 3)), np.ones((1, 12))))
        bad = encoder.encode(["words"])
        bad.hs[0, 0] = np.nan
        with pytest.raises(ModelError, match="not finite"):
            index.search_embeddings(bad)
        with pytest.raises(MisuseError, match="min_score"):
            index.search("words", min_score=float("nan"))


def test_encoders_are_compared_by_field(tmp_path: Path) -> None:
    documents = [Document("a", "some words", {"title": "T", "n": 1})]
    Index.build(tmp_path / "i", documents, FakeEncoder()).close()
    other = FakeEncoder(spec=fake_spec(bits=4, prompt="prompteol"))
    with pytest.raises(FingerprintMismatchError, match=r"bits 32 \(now 4\), prompt 'none' \(now"):
        Index.open(tmp_path / "i", other)
    moved = FakeEncoder(spec=fake_spec(model="else", path="/elsewhere"))
    asked = []

    def load(spec: Any) -> FakeEncoder:
        asked.append(spec)
        return moved

    with Index.open(tmp_path / "i", load) as index:
        assert not asked
        hit = index.search("words")[0]
        index.search("more words")
        assert asked == [index.spec]
        assert (hit.text, hit.metadata) == ("some words", {"title": "T", "n": 1})
        with pytest.raises(FingerprintMismatchError, match="another model"):
            index.check_encoder(fake_spec(fingerprint="e" * 64))
    with Index.open(tmp_path / "i") as index:
        assert index.search_embeddings(moved.encode(["words"]))[0][0].id == "a"
        with pytest.raises(MisuseError, match="without an encoder"):
            index.search("words")


def test_vectors_by_id(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    documents = [Document(str(i), f"word{i} and{i}") for i in range(5)]
    with Index.build(tmp_path / "i", documents, encoder) as index:
        found = index.vectors(["3", "1"])
        assert np.array_equal(found.hs, encoder.encode(["word3 and3", "word1 and1"]).hs)
        with pytest.raises(MisuseError, match="'nine'"):
            index.vectors(["1", "nine"])


def test_half_precision_rows(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    documents = [Document(str(i), f"word{i} and{i % 7}") for i in range(80)]
    with Index.build(tmp_path / "i", documents, encoder, store="float16") as index:
        assert (tmp_path / "i/segment-0001/hs.f16").stat().st_size == 80 * 24 * 2
        assert index.search("word3 and3", 1)[0].id == "3"
        assert index.verify(full=True).ok
    large = Embeddings(np.full((2, 4), 1e6, np.float32), np.ones((2, 4), np.float32))
    with pytest.raises(ModelError, match="float16"):
        build(tmp_path / "j", large, store="float16")
