"""Approximate indexes: what they find, what they promise, and what changes leave of both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder, GivenEncoder
from moee_index.errors import IndexDamagedError, LibraryError, MisuseError, StorageError
from moee_index.fusion import unit_vectors
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    change,
    compact_index,
    delete_documents,
    reindex,
    verify_index,
)
from moee_index.index.approximate import measure, version
from moee_index.index.approximate.asked import Asked, weights_of
from moee_index.index.approximate.coarse import CoarseQuantizer, lists_for
from moee_index.index.search import pair
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.approximation import Approximation, Measured, Reach, Rung
from moee_index.index.store.manifest import Manifest
from moee_index.types import Document, Embeddings, Pair

DIMS = Pair(40, 24)


@pytest.fixture(autouse=True)
def nothing_is_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indexes would be scanned."""
    monkeypatch.setattr(pair, "SCANNED_ROWS", 0)


def grouped(count: int, seed: int) -> Embeddings:
    """Rows in some groups, so that there are near ones."""
    rng = np.random.default_rng([7, seed])
    centers = np.random.default_rng(7).standard_normal((60, DIMS.hs + DIMS.rw))
    rows = centers[rng.integers(0, 60, count)] + 0.7 * rng.standard_normal((count, 64))
    rows = rows.astype(np.float32)
    return Embeddings(rows[:, : DIMS.hs].copy(), rows[:, DIMS.hs :].copy())


def joined(first: Embeddings, second: Embeddings) -> Embeddings:
    return Embeddings(np.concatenate([first.hs, second.hs]), np.concatenate([first.rw, second.rw]))


def numbered(count: int, first: int = 0) -> list[Document]:
    return [Document(f"d{i}", str(i), {"third": i % 3}) for i in range(first, first + count)]


def on_topics(count: int, length: int) -> list[Document]:
    """Texts whose words are mostly those of one of 40 topics."""
    rng = np.random.default_rng(5)
    documents = []
    for i in range(count):
        own = rng.integers(0, 40) * 10 + rng.integers(0, 10, length)
        other = rng.integers(0, 400, length)
        words = np.where(rng.random(length) < 0.8, own, other)
        documents.append(Document(f"d{i}", " ".join(f"w{word}" for word in words)))
    return documents


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An approximate index of 3,000 documents."""
    path = tmp_path_factory.mktemp("approximate") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "SCANNED_ROWS", 0)
        build_index(path, numbered(3000), GivenEncoder(grouped(3000, 1)), index_type="approx")
    yield path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 500."""
    path = tmp_path_factory.mktemp("small") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "SCANNED_ROWS", 0)
        encoder = GivenEncoder(grouped(500, 1))
        build_index(path, numbered(500), encoder, index_type="approx", recall=0.7)
    return path


def test_scores_are_those_of_a_scan(made: Path) -> None:
    queries = grouped(40, 2)
    with Index.open(made) as index:
        for method in ("sum", "concat", "hs", "rw"):
            exact = index.search_embeddings(queries, 200, method=method, exact=True)
            found = index.search_embeddings(queries, 10, method=method)
            for every, some in zip(exact, found, strict=True):
                assert every.exact
                assert every.recall is None
                assert not some.exact
                assert some.recall == index.manifest.approximation.recall  # type: ignore[union-attr]
                scores = {hit.id: (hit.score, hit.hs, hit.rw) for hit in every}
                assert len(some) == 10
                for hit in some:
                    assert scores.get(hit.id, (hit.score, hit.hs, hit.rw)) == (
                        hit.score,
                        hit.hs,
                        hit.rw,
                    )
                assert [hit.score for hit in some] == sorted(
                    (hit.score for hit in some), reverse=True
                )


def shared(index: Index, queries: Embeddings, **options: object) -> float:
    """The share of the ten best that a search finds."""
    exact = index.search_embeddings(queries, 10, exact=True, **{**options, "recall": None})  # type: ignore[arg-type]
    found = index.search_embeddings(queries, 10, **options)  # type: ignore[arg-type]
    return float(
        np.mean(
            [
                len({hit.id for hit in one} & {hit.id for hit in other}) / max(1, len(one))
                for one, other in zip(exact, found, strict=True)
            ]
        )
    )


def test_the_promise_holds_for_other_queries(made: Path) -> None:
    approximation = Manifest.read(made).approximation
    assert approximation is not None
    own = approximation.rung()
    assert own is not None
    assert own.recall == approximation.recall >= 0.93
    assert own.reach.lists < approximation.lists
    queries = grouped(200, 3)
    with Index.open(made) as index:
        for options in (
            {"alpha": 0.25},
            {"alpha": 1.0},
            {"alpha": 4.0},
            {"method": "hs"},
            {"method": "rw"},
            {"method": "concat"},
        ):
            assert shared(index, queries, **options) >= 0.95
        assert shared(index, queries, filter="third = 1") >= 0.95


def test_more_recall_is_asked_for_and_found(made: Path) -> None:
    queries = grouped(100, 4)
    with Index.open(made) as index:
        little = index.search_embeddings(queries, 10, recall=0.8)
        much = index.search_embeddings(queries, 10, recall=0.95)
        assert 0.8 <= little[0].recall < much[0].recall  # type: ignore[operator]
        assert shared(index, queries, recall=0.8) <= shared(index, queries, recall=0.95)
        assert index.search_embeddings(queries, 10, recall=1.0)[0].exact


@pytest.mark.parametrize("recall", [0, -1, 1.5, float("nan"), "much", True])
def test_no_recall(made: Path, recall: object) -> None:
    with Index.open(made) as index, pytest.raises(MisuseError, match="recall is"):
        index.search_embeddings(grouped(1, 0), recall=recall)  # type: ignore[arg-type]


def test_recall_belongs_to_approximate_indexes(made: Path, tmp_path: Path) -> None:
    with Index.open(made) as index, pytest.raises(MisuseError, match="give one of them"):
        index.search_embeddings(grouped(1, 0), recall=0.9, exact=True)
    with pytest.raises(MisuseError, match="give --index-type approx"):
        build_index(tmp_path / "i", numbered(3), FakeEncoder(), recall=0.9)
    assert not (tmp_path / "i").exists()


def test_the_same_rows_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    build_index(again, numbered(3000), GivenEncoder(grouped(3000, 1)), index_type="approx")
    for name, entry in Manifest.read(made).files.items():
        if not name.endswith(".sqlite"):
            assert Manifest.read(again).files[name] == entry, name
    assert Manifest.read(again).approximation == Manifest.read(made).approximation


def test_what_is_added_needs_no_training_and_a_tenth_is_measured_again(
    made: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(made, tmp_path / "index"))
    vectors = joined(grouped(3000, 1), grouped(1000, 9))
    before = Manifest.read(path)
    add_documents(path, numbered(200, 3000), GivenEncoder(vectors))
    few = Manifest.read(path)
    assert few.approximation == before.approximation
    assert len(few.segments) == 2
    notes: list[str] = []
    add_documents(path, numbered(800, 3200), GivenEncoder(vectors), notify=notes.append)
    many = Manifest.read(path)
    assert before.approximation is not None
    assert many.approximation is not None
    assert many.approximation.coarse == before.approximation.coarse
    assert many.approximation.rows == 4000
    assert any(note.startswith("recall@10") for note in notes)
    assert verify_index(path, full=True).ok
    with Index.open(path) as index:
        assert shared(index, grouped(100, 5)) >= many.approximation.recall - 0.03
        hits = index.search_embeddings(
            Embeddings(vectors.hs[3500:3501], vectors.rw[3500:3501]), 1, method="concat"
        )
        assert hits[0][0].id == "d3500"
    delete_documents(path, ["d3500", *(f"d{i}" for i in range(0, 3000, 2))])
    with Index.open(path) as index:
        hits = index.search_embeddings(
            Embeddings(vectors.hs[3500:3501], vectors.rw[3500:3501]), 10, method="concat"
        )
        assert all(
            (hit.id != "d3500" and int(hit.text) % 2) or int(hit.text) > 2999 for hit in hits[0]
        )
        assert shared(index, grouped(100, 5)) >= 0.93
    compact_index(path)
    compacted = Manifest.read(path)
    assert len(compacted.segments) == 1
    assert compacted.approximation is not None
    assert compacted.approximation.rows == 2499
    assert verify_index(path, full=True).ok


@pytest.fixture
def measurings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each version whose recall is measured."""
    rows: list[int] = []

    def counted(snapshot: Snapshot, *others: object) -> Approximation:
        rows.append(snapshot.manifest.rows)
        return measure.measured(snapshot, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(version, "measured", counted)
    return rows


def test_an_add_that_joins_segments_measures_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measurings: list[int]
) -> None:
    """Of the version that stays; a reader, or a crash, between the two finds a promise that was
    measured."""
    path, encoder = tmp_path / "index", GivenEncoder(grouped(500, 1))
    build_index(path, numbered(400), encoder, index_type="approx", recall=0.8)
    for first in (400, 410, 420):
        add_documents(path, numbered(10, first), encoder)
    before = Manifest.read(path)
    assert len(before.segments) == 4
    assert measurings == [400]
    published: list[Manifest] = []

    def seen(directory: Path, manifest: Manifest, *others: object) -> None:
        published.append(manifest)
        publish(directory, manifest, *others)  # type: ignore[arg-type]

    def fails(*_: object) -> None:
        raise StorageError("no room")

    publish = change.publish
    monkeypatch.setattr(change, "publish", seen)
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="no room"):
        patch.setattr(change, "merged", fails)
        add_documents(path, numbered(30, 430), encoder)
    left = Manifest.read(path)
    assert measurings == [400]
    assert (left.rows, len(left.segments)) == (460, 5)
    assert left.approximation == before.approximation
    assert verify_index(path, full=True).ok
    with Index.open(path) as index:
        assert index.search_embeddings(grouped(1, 2))[0].recall == left.approximation.recall  # type: ignore[union-attr]
    add_documents(path, numbered(10, 460), encoder)
    after = Manifest.read(path)
    assert measurings == [400, 470]
    assert [len(manifest.segments) for manifest in published] == [5, 6, 2]
    assert published[1].approximation == before.approximation
    assert published[2] == after
    assert after.approximation is not None
    assert after.approximation.rows == 470
    assert verify_index(path, full=True).ok


def test_an_add_that_joins_nothing_measures_once(tmp_path: Path, measurings: list[int]) -> None:
    path, encoder = tmp_path / "index", GivenEncoder(grouped(500, 1))
    build_index(path, numbered(400), encoder, index_type="approx", recall=0.8)
    add_documents(path, numbered(50, 400), encoder)
    assert measurings == [400, 450]


def test_to_flat_and_back(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "index"
    build_index(path, numbered(1000), GivenEncoder(grouped(3000, 1)))
    flat = Manifest.read(path)
    content = json.loads((path / "manifest.json").read_text())
    assert content["version"] == 3
    assert "approximation" not in content
    report = reindex(path, index_type="approx", recall=0.9)
    assert report.index_type == "approx"
    content = json.loads((path / "manifest.json").read_text())
    assert content["version"] == 4
    assert content["approximation"]["wanted"] == 0.9
    reindex(path, standardize="none")
    manifest = Manifest.read(path)
    assert manifest.approximation is not None
    assert manifest.approximation.wanted == 0.9
    assert len(list(path.glob("coarse-*"))) == 1
    with Index.open(path) as index:
        info = index.info()
        assert info["approximate"]["recall"] == manifest.approximation.recall
        assert {one["search"] for one in info["approximate"]["measured"]} >= {
            "sum, alpha 0.25",
            "concat",
            "hs",
        }
    reindex(path, index_type="flat", standardize="both")
    assert not list(path.glob("coarse-*"))
    assert not list(path.glob("*/candidates-*"))
    assert Manifest.read(path).segments[0].codes_error == flat.segments[0].codes_error
    with Index.open(path) as index:
        assert index.search_embeddings(grouped(1, 1))[0].exact


def test_words_bring_what_vectors_do_not(tmp_path: Path) -> None:
    """A document that words alone favor is found, with all parts of its score."""
    documents = on_topics(1000, 12)
    documents.append(Document("rare", "w1 zyzzyva"))
    encoder = FakeEncoder(batch_tokens=4000)
    build_index(tmp_path / "i", documents, encoder, index_type="approx", recall=0.8)
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        query = "w2 zyzzyva"
        hits = index.search(query, 10, lexical=0.9)
        exact = index.search(query, 10, lexical=0.9, exact=True)
        assert not hits.exact
        assert hits[0].id == exact[0].id == "rare"
        assert (hits[0].score, hits[0].hs, hits[0].rw) == (exact[0].score, exact[0].hs, exact[0].rw)
        assert hits[0].lexical == exact[0].lexical
        by_words = index.search(query, 10, lexical=1.0)
        assert by_words.exact


def test_passages_of_a_document_are_left_out_of_what_is_measured(tmp_path: Path) -> None:
    documents = on_topics(350, 24)
    build_index(
        tmp_path / "i", documents, FakeEncoder(batch_tokens=4000), index_type="approx", chunk="8:2"
    )
    with Index.open(tmp_path / "i") as index:
        queries = measure.own_queries(index.snapshot)
        rows = measure.true_rows(index.snapshot, index._searchers, measure.Way("sum", 1.0), queries)
        for own, best in zip(queries.owns, rows, strict=True):
            assert all(len(each) > 1 for each in own)
            assert len(best) == 10
            assert not set(best) & {row for each in own for row in each}
        assert index.manifest.approximation is not None
        assert index.manifest.approximation.queries > 0


def test_a_damaged_file_is_named(small: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small, tmp_path / "index"))
    for pattern in ("*/candidates-*.faiss", "coarse-*", "*/candidates-*.crc"):
        (file,) = path.glob(pattern)
        content = bytearray(file.read_bytes())
        for place in {len(content) // 3, len(content) // 2, len(content) - 1}:
            altered = content.copy()
            altered[place] ^= 0x55
            file.write_bytes(altered)
            with pytest.raises(IndexDamagedError), Index.open(path) as index:
                index.search_embeddings(grouped(1, 1))
            report = verify_index(path, full=True)
            assert any(file.name[:6] in problem for problem in report.problems)
        file.write_bytes(content)
    assert verify_index(path, full=True).ok


def test_a_reader_keeps_its_version(small: Path, tmp_path: Path) -> None:
    """Candidates are read at the first search, when another version may be in place."""
    path = Path(shutil.copytree(small, tmp_path / "index"))
    with Index.open(path) as index:
        reindex(path, index_type="flat")
        assert not list(path.glob("*/candidates-*"))
        hits = index.search_embeddings(grouped(1, 1))[0]
        assert len(hits) == 10
        assert not hits.exact


ALONE = """
import sys
from moee_index.cli import cli
try:
    cli(sys.argv[1:])
except SystemExit as end:
    assert not end.code
assert sys.modules.keys().isdisjoint({"faiss", "torch"})
"""


def spoiled(directory: Path) -> Path:
    """The file of the coarse quantizer, which holds something else of the same size."""
    (file,) = directory.glob("coarse-*")
    file.write_bytes(bytes(file.stat().st_size))
    return file


@pytest.mark.parametrize("arguments", ["info", "list", "list --facet third"])
def test_what_searches_nothing_loads_no_library(made: Path, tmp_path: Path, arguments: str) -> None:
    """And does not read the coarse quantizer."""
    path = shutil.copytree(made, tmp_path / "index")
    name, *options = arguments.split()
    command = [sys.executable, "-c", ALONE, name, str(path), *options]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "3000" in expected or "1000" in expected
    spoiled(path)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == expected


@pytest.mark.parametrize("name", ["coarse-0001.safetensors", "segment-0001/hs-0001.faiss"])
def test_what_is_not_whole_is_told_without_a_search(made: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(made, tmp_path / "index")
    file = path / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(IndexDamagedError, match=f"{name} has"):
        Snapshot.open(path)
    file.unlink()
    with pytest.raises(IndexDamagedError, match=f"{name} cannot be read"):
        Snapshot.open(path)


def test_a_damaged_coarse_quantizer_is_told_by_the_first_search_that_needs_it(
    made: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(made, tmp_path / "index")
    file, query = spoiled(path), grouped(1, 1)
    with Index.open(path) as index:
        assert index.info()["documents"] == 3000
        assert len(index.search_embeddings(query, exact=True)[0]) == 10
        assert len(index.search_embeddings(query, filter="id = 'd7'")[0]) == 1
        for _ in range(2):
            with pytest.raises(IndexDamagedError, match=f"{file.name} is altered"):
                index.search_embeddings(query)
    (problem,) = verify_index(path).problems
    assert f"{file.name} is altered" in problem


def test_another_faiss_is_told_by_the_first_search(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CoarseQuantizer, "_probe", lambda self: np.zeros((1, self.width)))
    with Index.open(made) as index, pytest.raises(LibraryError, match="rotates vectors otherwise"):
        index.search_embeddings(grouped(1, 1))
    (problem,) = verify_index(made).problems
    assert "rotates vectors otherwise" in problem


def test_first_searches_read_the_coarse_quantizer_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From several threads at a time, and when its name is gone."""
    path, query = shutil.copytree(made, tmp_path / "index"), grouped(1, 1)
    add_documents(path, numbered(200, 3000), GivenEncoder(grouped(3200, 1)))
    with Index.open(path) as index:
        expected = index.search_embeddings(query)
    read, began = CoarseQuantizer.read, []

    def slowly(*held: object) -> CoarseQuantizer:
        began.append(held)
        time.sleep(0.2)
        return read(*held)  # type: ignore[arg-type]

    monkeypatch.setattr(CoarseQuantizer, "read", slowly)
    together = threading.Barrier(4)

    def first(_: int) -> object:
        together.wait()
        return index.search_embeddings(query)

    with Index.open(path) as index, ThreadPoolExecutor(4) as threads:
        (file,) = path.glob("coarse-*")
        file.unlink()
        assert began == []
        assert list(threads.map(first, range(4))) == [expected] * 4
        assert len(began) == 1


def test_a_filter_that_leaves_what_is_far(made: Path) -> None:
    """Where what is near is left out, as many candidates are found among the others."""
    query = grouped(1, 8)
    with Index.open(made) as index:
        scores = {hit.id: hit.score for hit in index.search_embeddings(query, 3000, exact=True)[0]}
        middle = sorted(scores.values())[1500]
        far = np.array([scores[f"d{i}"] < middle for i in range(3000)])
        (segment,) = index.snapshot.segments
        file = index.snapshot.coarse
        assert segment.candidates is not None
        assert file is not None
        lists = file.opened().lists
        units = unit_vectors(query, index.standardizer)
        asked = Asked(file.opened, units, "sum", 1.0, Reach(lists // 2, 20))
        (found,) = segment.candidates.ranked(asked, asked.reach, far)
        assert len(found) == 20
        assert far[found].all()
        (every,) = segment.candidates.ranked(asked, asked.reach, None)
        assert not far[every].all()


def test_little_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "SCANNED_ROWS", 1 << 14)
    notes: list[str] = []
    build_index(
        tmp_path / "i",
        numbered(200),
        GivenEncoder(grouped(200, 1)),
        index_type="approx",
        notify=notes.append,
    )
    approximation = Manifest.read(tmp_path / "i").approximation
    assert approximation is not None
    assert approximation.recall == 1.0
    assert any("every row is looked at" in note for note in notes)
    with Index.open(tmp_path / "i") as index:
        assert index.search_embeddings(grouped(1, 1))[0].exact


# The parts


@given(rows=st.integers(0, 10**10))
def test_lists_grow_with_the_root(rows: int) -> None:
    lists = lists_for(rows)
    assert 1 <= lists <= 1 << 16
    assert lists == 1 or rows >= 20 * lists


@given(
    method=st.sampled_from(["sum", "concat", "hs", "rw"]),
    alpha=st.floats(0, 1e30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_a_query_has_the_fused_score_as_its_inner_product(
    method: str, alpha: float, seed: int
) -> None:
    """Rotated and weighted, up to one factor a query."""
    rng = np.random.default_rng(seed)
    coarse = CoarseQuantizer(np.zeros((1, 64 + 32), dtype=np.float32), DIMS)
    rows, queries = (
        Embeddings(
            rng.standard_normal((n, DIMS.hs), dtype=np.float32),
            rng.standard_normal((n, DIMS.rw), dtype=np.float32),
        )
        for n in (5, 2)
    )
    documents, asked = unit_vectors(rows), unit_vectors(queries)
    given_alpha = alpha if method == "sum" else None
    vectors = Asked(lambda: coarse, asked, method, given_alpha, Reach(1, 1)).vectors  # type: ignore[arg-type]
    weights = weights_of(asked, method, given_alpha)  # type: ignore[arg-type]
    assert np.allclose(np.linalg.norm(weights, axis=1), 1, atol=1e-6)
    product = vectors @ coarse.rotated(documents.parts).T
    wanted = weights[:, :1] * (asked.hs @ documents.hs.T)
    wanted = wanted + weights[:, 1:] * (asked.rw @ documents.rw.T)
    assert np.allclose(product, wanted, atol=1e-5)
    if method == "sum" and alpha <= 1e6:
        assert np.allclose(weights[:, 1] / weights[:, 0], alpha, rtol=1e-5)


def test_rungs() -> None:
    rungs = (
        Rung(0.8, Reach(2, 32), Reach(4, 32), 0.8),
        Rung(0.95, Reach(8, 64), Reach(8, 128), 0.94),
    )
    measured = (Measured("hs", 0.96, 0.01), Measured("rw", 0.97, 0.01))
    approximation = Approximation(1, 10, 0.95, rungs, measured, 10, 100)
    assert approximation.recall == 0.94
    assert approximation.rung() == rungs[1]
    assert approximation.rung(0.5) == approximation.rung(0.8) == rungs[0]
    assert approximation.rung(0.81) == approximation.rung(0.95) == rungs[1]
    assert approximation.rung(0.96) is None
    assert rungs[1].reach_of("concat") == Reach(8, 64)
    assert rungs[1].reach_of("rw") == Reach(8, 128)


def test_more_and_rarer_hits_reach_farther() -> None:
    coarse = CoarseQuantizer(np.zeros((100, 96), dtype=np.float32), DIMS)
    rows = unit_vectors(grouped(1, 1))
    asked = Asked(lambda: coarse, rows, "sum", 1.0, Reach(9, 50))
    assert asked.reach_for(1, 1.0) == asked.reach_for(10, 1.0) == Reach(9, 50)
    assert asked.reach_for(10, 0.25).lists > 9
    assert asked.reach_for(10, 0.25).depth == 50
    assert asked.reach_for(100, 1.0).depth > 50
    assert asked.reach_for(10**6, 0.01).lists == 100
