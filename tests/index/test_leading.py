"""Early exit: a scan that leaves rows out by leading components answers as one of all rows."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder, GivenEncoder
from moee_index.errors import IndexDamagedError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    verify_index,
)
from moee_index.index.hits import Hits
from moee_index.index.search import early_exit, shortlist
from moee_index.index.search.early_exit import EarlyExit
from moee_index.index.search.kernels import Scanner
from moee_index.index.search.leading import QueryBounds
from moee_index.index.search.native.library import library
from moee_index.index.store.checksums import piece_crcs
from moee_index.index.store.layout import LEADING, code_checks_name, leading_name
from moee_index.index.store.leading import ZERO, open_leading
from moee_index.index.store.manifest import Manifest, file_entry
from moee_index.index.write import leading as writing
from moee_index.index.write.leading import Directions
from moee_index.types import Document, Embeddings, FloatArray, Pair

DIMS = Pair(96, 48)
ROWS = 3000
KINDS = ("falling", "even", "ties", "copies", "alone")

needs_compiler = pytest.mark.skipif(library() is None, reason="installed without a C++ compiler")


def part(kind: str, count: int, dim: int, seed: int) -> FloatArray:
    rng = np.random.default_rng([seed, dim])
    rows = rng.standard_normal((count, dim))
    turned = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))[0]
    if kind != "even":
        rows = (rows * np.arange(1, dim + 1) ** -0.9) @ turned
    if kind == "ties":
        rows = rows[0] + 1e-3 * rows
    if kind == "copies":
        rows[count // 3 : count // 2] = rows[7]
        rows[count // 2 : count // 2 + 20] = 0
    if kind == "alone":  # far outside of what a byte was made to hold
        rows[count // 2 :: 101] = turned[::1][: len(rows[count // 2 :: 101])]
        rows[-1] = -40 * rows[0]
    return rows.astype(np.float32)


def corpus(kind: str, count: int = ROWS, seed: int = 0) -> Embeddings:
    return Embeddings(*(part(kind, count, dim, seed) for _, dim in DIMS))


def asked(kind: str, count: int) -> Embeddings:
    near, other = corpus(kind, ROWS), corpus("falling", count, 1)
    queries = [getattr(near, name)[5::97][:count] + getattr(other, name) for name in ("hs", "rw")]
    if count > 3:
        queries[0][1:3] = 0
        queries[1][2] = 0
    return Embeddings(*queries)


def numbered(count: int) -> list[Document]:
    return [Document(f"d{i}", str(i), {"n": i}) for i in range(count)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leading components of small segments too, whatever they gain."""
    monkeypatch.setattr(writing, "_LEAST_BYTES", 0)
    monkeypatch.setattr(writing, "_MOST_READ", 1e9)


@pytest.fixture(scope="module", params=KINDS)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An index of each kind of rows, some of them deleted."""
    path = tmp_path_factory.mktemp("leading") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_LEAST_BYTES", 0)
        patch.setattr(writing, "_MOST_READ", 1e9)
        encoder = GivenEncoder(corpus(request.param))
        build_index(path, numbered(ROWS), encoder, standardize="none", language="none")
        delete_documents(path, [f"d{i}" for i in range(40, 60)])
    yield request.param, path


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows whose codes were read after their bounds were, of each block."""
    read: list[int] = []
    real = EarlyExit._only

    def only(self: EarlyExit, rows: range, places: Any) -> Any:
        read.append(len(places))
        return real(self, rows, places)

    monkeypatch.setattr(EarlyExit, "_only", only)
    return read


def plain(answers: list[Hits]) -> list[list[tuple[str, float, Any, Any]]]:
    return [[(hit.id, hit.score, hit.hs, hit.rw) for hit in hits] for hits in answers]


def both_ways(search: Callable[[], list[Hits]]) -> tuple[Any, Any]:
    """Answers with and without early exit."""
    early = search()
    assert all(hits.exact for hits in early)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "_EARLY_QUERIES", 0)
        return plain(early), plain(search())


@needs_compiler
@pytest.mark.parametrize("method", ["hs", "rw", "concat", "sum"])
@pytest.mark.parametrize("block", [None, 700])
def test_answers_are_those_of_a_whole_scan(
    made: tuple[str, Path], exits: list[int], method: Any, block: int | None
) -> None:
    kind, path = made
    with Index.open(path, block_rows=block) as index:
        for alpha in (None, 0.0, 0.3, 5.0) if method == "sum" else (None,):
            for more in ({}, {"k": 150}, {"filter": "n < 2000"}, {"min_score": 0.4}):
                queries = asked(kind, 9)

                def search(
                    more: Any = more, alpha: Any = alpha, queries: Embeddings = queries
                ) -> list[Hits]:
                    return index.search_embeddings(
                        queries, **({"k": 10, "method": method, "alpha": alpha} | more)
                    )

                early, whole = both_ways(search)
                assert early == whole
    assert exits


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An index of texts with common words and rare ones."""
    path = tmp_path_factory.mktemp("leading") / "index"
    texts = [f"w{i % 3} w{i % 9} w{i % 50} w{i % 333}" for i in range(1200)]
    documents = [Document(f"d{i}", text, {"n": i}) for i, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_LEAST_BYTES", 0)
        patch.setattr(writing, "_MOST_READ", 1e9)
        build_index(path, documents, FakeEncoder())
    yield path


@needs_compiler
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_request_with_words(worded: Path, data: st.DataObject) -> None:
    words = st.integers(0, 340).map("w{}".format)
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=5)))
    request: Any = {
        "k": data.draw(st.integers(1, 40)),
        "lexical": data.draw(st.sampled_from([0.0, 0.2, 0.7])),
        "method": data.draw(st.sampled_from(["sum", "concat", "hs"])),
        "filter": data.draw(st.sampled_from([None, "n >= 200", "n < 700", "n < 5"])),
        "min_score": data.draw(st.sampled_from([None, 0.3])),
    }
    block = data.draw(st.sampled_from([None, 64, 500]))
    with Index.open(worded, FakeEncoder(), block_rows=block) as index:
        early, whole = both_ways(lambda: [index.search(text, **request)])
    assert early == whole


@needs_compiler
def test_most_rows_are_not_read(always: None, tmp_path: Path, exits: list[int]) -> None:
    build_index(tmp_path, numbered(ROWS), GivenEncoder(corpus("falling")), standardize="none")
    with Index.open(tmp_path) as index:
        for number in range(9):
            queries = asked("falling", 9)
            one = slice(number, number + 1)
            index.search_embeddings(Embeddings(queries.hs[one], queries.rw[one]), lexical=0)
    assert 0 < sum(exits) < 0.2 * 9 * ROWS


@needs_compiler
def test_where_bounds_say_nothing_they_are_not_looked_at_for_long(
    always: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[int] = []
    real = Scanner.upper_bounds

    def upper_bounds(self: Scanner, parts: Any, rows: range, room: Any) -> Any:
        bounded.append(len(rows))
        return real(self, parts, rows, room)

    monkeypatch.setattr(Scanner, "upper_bounds", upper_bounds)
    build_index(tmp_path, numbered(ROWS), GivenEncoder(corpus("even")), standardize="none")
    queries = corpus("even", 1, 5)
    with Index.open(tmp_path, block_rows=500) as index:
        index.search_embeddings(queries, lexical=0)
    assert sum(bounded) <= 500


def bounds_of(kind: str, count: int) -> tuple[Any, ...]:
    """Codes, their encoding, queries and similarities of one part; the sample is of the first half
    alone."""
    rows = part(kind, ROWS, DIMS.hs, 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    codes = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float16).astype(np.float32)
    fitted = Directions.fit(codes[: ROWS // 2]).first(count)
    queries = np.concatenate([codes[:40], fitted.directions[:3], part("even", 5, DIMS.hs, 9)])
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    return codes, fitted, fitted.encoded(codes), queries.astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [16, 48])
def test_bounds_are_never_too_small(kind: str, count: int) -> None:
    codes, fitted, encoded, queries = bounds_of(kind, count)
    similarities = queries.astype(np.float64) @ codes.T.astype(np.float64)
    bounds = QueryBounds.of(fitted.directions, fitted.steps, encoded.error, queries)
    upper = bounds.upper(encoded.codes, encoded.rest)
    assert not (upper < similarities).any()
    if kind == "alone":
        assert 0 < np.isinf(encoded.rest).sum() < 100
    elif kind == "falling":
        # They say something, too.
        assert np.median(upper - similarities) < 0.5
        assert not np.isinf(encoded.rest[: ROWS // 2]).any()


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_bounds_are_the_same(kind: str) -> None:
    _, fitted, encoded, queries = bounds_of(kind, 48)
    for query in range(0, len(queries), 7):
        one = queries[query : query + 1]
        bounds = QueryBounds.of(fitted.directions, fitted.steps, encoded.error, one)
        out = np.empty(ROWS, dtype=np.float32)
        bounds.upper_of_one(encoded.codes, encoded.rest, out)
        expected = bounds.upper(encoded.codes, encoded.rest)[0]
        np.testing.assert_allclose(out, expected, atol=1e-5)


@needs_compiler
def test_sums_do_not_pass_what_counts_them() -> None:
    # 1,024 components of one size, and codes at their ends: each sum is as large as it gets.
    width = 1024
    directions = np.eye(width, dtype=np.float32)
    steps = np.full(width, 0.01, dtype=np.float32)
    query = np.full((1, width), width**-0.5, dtype=np.float32)
    bounds = QueryBounds.of(directions, steps, 0.0, query)
    codes = np.array([[ZERO + 127] * width, [ZERO - 127] * width], dtype=np.uint8)
    out = np.empty(2, dtype=np.float32)
    bounds.upper_of_one(codes, np.zeros(2, dtype=np.float32), out)
    exact = 127 * 0.01 * width**0.5
    np.testing.assert_allclose(out, [exact, -exact], rtol=1e-3)
    assert out[0] >= exact
    assert out[1] >= -exact


def test_rows_without_structure_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_LEAST_BYTES", 0)
    for kind, expected in (("even", False), ("falling", True)):
        path = tmp_path / kind
        build_index(path, numbered(ROWS), GivenEncoder(corpus(kind)), standardize="none")
        (entry,) = Manifest.read(path).segments
        assert (entry.leading is not None) == expected
        if entry.leading is not None:
            assert 0 < entry.leading.read < 0.4


def test_small_indexes_are_as_before(tmp_path: Path) -> None:
    build_index(tmp_path, numbered(300), GivenEncoder(corpus("falling", 300)))
    assert not list(tmp_path.glob("segment-*/leading*"))
    assert json.loads((tmp_path / "manifest.json").read_text())["version"] == 3


def test_the_same_rows_give_the_same_bytes(always: None, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_index(tmp_path / name, numbered(900), GivenEncoder(corpus("falling", 900)))
    (one,), (two,) = (
        list((tmp_path / name).glob("segment-*/leading-*.safetensors")) for name in ("one", "two")
    )
    assert one.read_bytes() == two.read_bytes()


def test_every_change_keeps_them(always: None, tmp_path: Path) -> None:
    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("segment-*/leading*.safetensors"))

    encoder = FakeEncoder()
    texts = [Document(f"d{i}", f"w{i % 31} w{i % 7} w{i}") for i in range(600)]
    build_index(tmp_path, texts[:300], encoder)
    assert json.loads((tmp_path / "manifest.json").read_text())["version"] == 5
    add_documents(tmp_path, texts[300:], encoder)
    assert len(files()) == 2
    with Index.open(tmp_path) as index:
        told = index.info()["early_exit"]
    size = sum(path.stat().st_size for path in tmp_path.glob("segment-*/leading*"))
    assert told["bytes"] == size
    assert told["read"] > 0
    delete_documents(tmp_path, ["d1", "d2"])
    compact_index(tmp_path)
    assert len(files()) == 1
    assert verify_index(tmp_path, full=True).ok
    reindex(tmp_path, index_type="approx")
    assert files() == []
    notes: list[str] = []
    reindex(tmp_path, index_type="flat", notify=notes.append)
    assert len(files()) == 1
    assert any(note.startswith("early exit: a query reads as much as ") for note in notes)
    assert verify_index(tmp_path, full=True).ok


@needs_compiler
def test_an_altered_byte_is_an_error(always: None, tmp_path: Path) -> None:
    build_index(tmp_path, numbered(900), GivenEncoder(corpus("falling", 900)), language="none")
    (path,) = tmp_path.glob("segment-*/leading-*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    altered = pytest.raises(IndexDamagedError, match=r"leading-0001\.safetensors is altered")
    with altered, Index.open(tmp_path) as index:
        index.search_embeddings(asked("falling", 1))
    path.unlink()
    with pytest.raises(IndexDamagedError, match=r"leading-0001\.safetensors"):
        Index.open(tmp_path)


def relisted(index: Path, content: bytes) -> None:
    """Other leading components, with checksums that are true of them."""
    manifest = Manifest.read(index)
    (entry,) = manifest.segments
    assert entry.leading is not None
    folder = index / entry.name
    path = folder / leading_name(entry.leading.revision)
    path.write_bytes(content)
    checks = folder / code_checks_name(LEADING, entry.leading.revision)
    checks.write_bytes(piece_crcs(path).tobytes())
    for each in (path, checks):
        manifest.files[f"{entry.name}/{each.name}"] = file_entry(each)
    manifest.write(index)


@pytest.mark.parametrize("tensor", ["hs.rest", "rw.codes", "hs.steps", "rw.error", "hs.directions"])
def test_verify_finds_bounds_that_are_not_true(always: None, tmp_path: Path, tensor: str) -> None:
    build_index(tmp_path, numbered(900), GivenEncoder(corpus("falling", 900)), language="none")
    (path,) = tmp_path.glob("segment-*/leading-*.safetensors")
    content = bytearray(path.read_bytes())
    size = 8 + struct.unpack("<Q", content[:8])[0]
    begin, end = json.loads(content[8:size])[tensor]["data_offsets"]
    middle = size + (begin + end) // 2 // 4 * 4 if end - begin > 4 else size + begin
    if tensor == "rw.codes":
        content[middle] = (content[middle] + 100) % 256
    else:
        content[middle : middle + 4] = struct.pack("<f", 1e-4)
    relisted(tmp_path, bytes(content))
    assert verify_index(tmp_path).ok
    report = verify_index(tmp_path, full=True)
    assert [
        f"{path} does not follow from the codes beside it" in one for one in report.problems
    ] == [True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        (8).to_bytes(8, "little") + b'{"a":1} ',
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_what_is_no_such_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "leading-0001.safetensors"
    path.write_bytes(content + b"\0" * (not content))
    with pytest.raises(IndexDamagedError, match=r"leading-0001\.safetensors is damaged"):
        open_leading(path, piece_crcs(path), 10, DIMS)


def test_another_index_of_other_rows_is_damaged(always: None, tmp_path: Path) -> None:
    for name, rows in (("one", 900), ("two", 901)):
        build_index(tmp_path / name, numbered(rows), GivenEncoder(corpus("falling", rows)))
    (path,) = (tmp_path / "two").glob("segment-*/leading-*.safetensors")
    relisted(tmp_path / "one", path.read_bytes())
    assert any("is none of 900 rows" in each for each in verify_index(tmp_path / "one").problems)


def test_without_a_compiler_every_row_is_read(
    made: tuple[str, Path], exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, path = made
    with Index.open(path) as index:
        expected = plain(index.search_embeddings(asked(kind, 9)))
        exits.clear()
        monkeypatch.setattr(shortlist, "library", lambda: None)
        assert plain(index.search_embeddings(asked(kind, 9))) == expected
    assert not exits


def test_the_first_look_passes_over_bounds_that_say_nothing() -> None:
    upper = np.array([np.inf, 0.1, np.nan, 0.9, 0.5], dtype=np.float32)
    exit = object.__new__(EarlyExit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_exit, "_FIRST_LOOK", 2)
        patch.setattr(early_exit, "_FIRST_LOOK_PER_K", 0)
        exit._request = type("Asked", (), {"k": 1})()  # type: ignore[assignment]
        assert exit._best(upper, None).tolist() == [3, 4]
        assert exit._best(upper, np.array([0, 1, 4])).tolist() == [1, 4]
