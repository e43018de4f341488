"""The scan of a flat pair: a rough look never loses a document, and is used only where it helps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.word_encoder import GivenEncoder
from moee_index.backends import load_faiss
from moee_index.errors import IndexDamagedError
from moee_index.fusion import fuse, top_k, unit_vectors
from moee_index.index import Index
from moee_index.index.search import bfloat16_scan as rough
from moee_index.index.search import kernels as scan
from moee_index.index.search.kernels import Scanner
from moee_index.types import Document, Embeddings

torch = pytest.importorskip("torch")

# HS codes fill more than one piece that is checked.
ROWS, HS, RW = 9000, 80, 24
METHODS = ("hs", "rw", "concat", "sum")


def corpus(kind: str) -> Embeddings:
    rng = np.random.default_rng(8)
    parts = [rng.standard_normal((ROWS, dim)).astype(np.float32) for dim in (HS, RW)]
    for values in parts:
        if kind == "near ties":
            # Around one vector, nearer to each other than bfloat16 tells apart.
            values[:] = values[0] + 1e-3 * values
        if kind == "copies":
            values[2000:2300] = values[7]
            values[2300:2320] *= 0
    return Embeddings(*parts)


def asked(given: Embeddings, count: int) -> Embeddings:
    """Queries near documents, two of them zero in a part or in both."""
    rng = np.random.default_rng(3)
    parts = [getattr(given, part)[:count].copy() for part in ("hs", "rw")]
    parts = [part + 0.3 * rng.standard_normal(part.shape, dtype=np.float32) for part in parts]
    if count > 2:
        parts[0][1:3] = 0
        parts[1][2] = 0
    return Embeddings(*parts)


def brute_force(
    given: Embeddings, queries: Embeddings, k: int, method: Any, allowed: Any
) -> list[tuple[Any, Any]]:
    """Rows and scores of the best k for each query, in float64."""
    documents, found = unit_vectors(given), []
    for place in range(len(queries)):
        query = unit_vectors(Embeddings(queries.hs[place][None], queries.rw[place][None]))
        hs, rw = documents.hs @ query.hs[0], documents.rw @ query.rw[0]
        scores = fuse(method, hs, rw, 0.7, query.norms[0], documents.norms)
        # As scores are: equal to float32's last digit is equal.
        scores = np.where(allowed, scores.astype(np.float32), -np.inf)
        best = top_k(scores, k)
        found.append((best[np.isfinite(scores[best])], scores))
    return found


@pytest.fixture(scope="module", params=["random", "near ties", "copies"])
def made(request: Any, tmp_path_factory: Any) -> Any:
    given = corpus(request.param)
    directory = tmp_path_factory.mktemp("scan") / "i"
    documents = [Document(f"d{i}", str(i), {"n": i}) for i in range(ROWS)]
    Index.build(directory, documents, GivenEncoder(given), standardize="none").close()
    return request.param, directory, given


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bool, int]]]:
    """(roughly, rows) of every look at the codes."""
    seen: list[tuple[bool, int]] = []
    real = Scanner.similarities

    def similarities(
        self: Scanner, parts: Any, rows: Any, *, roughly: bool = False, **more: Any
    ) -> Any:
        seen.append((roughly, len(rows)))
        return real(self, parts, rows, roughly=roughly, **more)

    monkeypatch.setattr(Scanner, "similarities", similarities)
    return seen


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 20])
@pytest.mark.parametrize(("k", "condition"), [(10, None), (1, "n >= 100"), (10, "n < 3000")])
def test_every_way_gives_the_exact_answer(
    made: Any, looks: Any, monkeypatch: Any, pays: bool, count: int, k: int, condition: str | None
) -> None:
    kind, directory, given = made
    monkeypatch.setattr(rough, "pays", lambda: pays)
    queries = asked(given, count)
    numbers = np.arange(ROWS)
    allowed = {None: numbers >= 0, "n >= 100": numbers >= 100, "n < 3000": numbers < 3000}
    with Index.open(directory, block_rows=1000 if k == 1 else None) as index:
        for method in METHODS:
            alpha = 0.7 if method == "sum" else None
            looks.clear()
            answers = index.search_embeddings(
                queries, k, alpha=alpha, method=method, filter=condition
            )
            # Those that are zero in all parts that count are not looked for.
            looked_for = count - (0 if count < 3 else 2 if method == "hs" else 1)
            assert any(roughly for roughly, _ in looks) == (pays and looked_for >= 5)
            expected = brute_force(given, queries, k, method, allowed[condition])
            for hits, (best, scores) in zip(answers, expected, strict=True):
                assert hits.exact
                rows = [int(hit.id[1:]) for hit in hits]
                found = np.array([hit.score for hit in hits])
                np.testing.assert_allclose(found, scores[rows], atol=2e-6)
                np.testing.assert_allclose(found, scores[best], atol=2e-6)
                # The same documents but for what float32 cannot tell apart at the cut.
                for row in set(rows) ^ set(best.tolist()):
                    assert abs(scores[row] - scores[best[-1]]) <= 2e-6
                if kind == "copies" and method == "sum" and count == 7 and k == 10:
                    assert rows == best.tolist()


@pytest.fixture(
    params=[
        "swig_ptr",
        "RangeSearchPartialResult",
        "ScalarQuantizer.select_InvertedListScanner",
        "InvertedListScanner.scan_codes_range",
    ]
)
def without_scanner(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A faiss that lacks something of its scanner, which no documentation promises."""
    used: list[int] = []
    monkeypatch.setattr(scan, "_scan_each", lambda *_: used.append(1))
    monkeypatch.setattr(scan, "_of_thread", threading.local())
    within, _, name = request.param.rpartition(".")
    faiss = load_faiss()
    monkeypatch.delattr(getattr(faiss, within) if within else faiss, name)
    scan._scanner_works.cache_clear()
    yield
    scan._scanner_works.cache_clear()
    assert not used


@pytest.mark.parametrize("count", [1, 4])
def test_without_faisss_scanner_the_answer_is_exact(
    made: Any, without_scanner: None, count: int
) -> None:
    _, directory, given = made
    queries = asked(given, count)
    expected = brute_force(given, queries, 10, "sum", np.full(ROWS, True))
    with Index.open(directory) as index:
        answers = index.search_embeddings(queries, 10, alpha=0.7, method="sum")
    for hits, (best, scores) in zip(answers, expected, strict=True):
        assert hits.exact
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=2e-6)


def test_near_ties_are_looked_at_exactly_and_no_more_than_once(
    made: Any, looks: Any, monkeypatch: Any
) -> None:
    kind, directory, given = made
    monkeypatch.setattr(rough, "pays", lambda: True)
    queries = Embeddings(given.hs[:8], given.rw[:8])
    with Index.open(directory) as index:
        index.search_embeddings(queries, 10)
    whole = sum(rows for roughly, rows in looks if not roughly)
    if kind == "near ties":
        # Given up after the first block, then all rows once.
        assert sum(rows for roughly, rows in looks if roughly) < ROWS
        assert whole == ROWS
    else:
        assert sum(rows for roughly, rows in looks if roughly) == ROWS
        assert whole < 8 * ROWS // 20


def test_min_score_with_a_rough_look(made: Any, monkeypatch: Any) -> None:
    _, directory, given = made
    monkeypatch.setattr(rough, "pays", lambda: True)
    queries = asked(given, 8)
    with Index.open(directory) as index:
        everything = index.search_embeddings(queries, 20)
        cut = everything[0][7].score
        some = index.search_embeddings(queries, 20, min_score=cut)
    assert some == [[hit for hit in hits if hit.score >= cut] for hits in everything]


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("count", [1, 20])
def test_an_altered_code_is_an_error(
    made: Any, tmp_path: Path, monkeypatch: Any, pays: bool, count: int
) -> None:
    _, directory, given = made
    monkeypatch.setattr(rough, "pays", lambda: pays)
    copied = tmp_path / "i"
    for source in directory.rglob("*"):
        if source.is_file():
            target = copied / source.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = bytearray(source.read_bytes())
            if source.name == "hs-0001.faiss":
                content[-7] ^= 4
            target.write_bytes(content)
    with (
        Index.open(copied) as index,
        pytest.raises(IndexDamagedError, match=r"hs-0001\.faiss is altered"),
    ):
        index.search_embeddings(asked(given, count))


def test_bounds_of_a_rough_look_hold() -> None:
    rng = np.random.default_rng(1)
    dim = 1100
    kinds = [
        rng.standard_normal((700, dim)),
        rng.standard_normal((700, dim)) ** 5,
        # One large value, the others below float16's normal numbers.
        np.where(np.arange(dim) == 0, 1.0, 2.0**-15 * (1 + 2.0**-8)) * np.ones((3, 1)),
    ]
    units = np.concatenate(kinds)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    # Half way between two neighbours in bfloat16, so that as much as can be is lost.
    halfway = np.where(np.arange(dim) < 1016, (1 + 2.0**-8) / 32, 0)
    units = np.concatenate([units, [halfway, -halfway]])
    codes = units.astype(np.float16)
    longest = float(np.linalg.norm(codes.astype(np.float64), axis=1).max())
    for count in (1, 5, 40):
        queries = units[:: -(-len(units) // count)].astype(np.float32)
        queries[0] = halfway
        found = np.empty((len(queries), len(codes)), dtype=np.float32)
        rough.multiply(codes, queries, found)
        exact = queries.astype(np.float64) @ codes.astype(np.float64).T
        bounds = rough.bounds(queries, longest)
        off = np.abs(found - exact)
        assert (off <= bounds[:, None] + rough.ROUNDING * np.abs(found)).all()
        # The bound says something: real errors come near it, and it is small.
        assert bounds.max() < 0.01
        assert off.max() > bounds.min() / 2


def test_what_pays_is_found_out_and_threads_stay_as_they_were(made: Any) -> None:
    _, directory, given = made
    before = torch.get_num_threads()
    assert rough.pays() in (True, False)
    with Index.open(directory) as index:
        index.search_embeddings(asked(given, 8))
    assert torch.get_num_threads() == before
