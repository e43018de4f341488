"""Odd arguments to what the package exports: a MoeeIndexError that names them, or an answer."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder
from moee_index import Document, Embeddings, Encoder, Hit, Index
from moee_index.errors import MisuseError, MoeeIndexError
from moee_index.export.export import export_index
from moee_index.index import (
    add_documents,
    build_index,
    compact_index,
    default_index,
    delete_documents,
    reindex,
    save_alpha,
    verify_index,
)
from moee_index.tune.unlabelled import tune_without_labels

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 10**400, -(10**400), 1.0, 10.0, -0.5, math.nan, math.inf, 1e31,
    "", " ", "1", "10", "id", "sum", "x = 1", "half \ud83d", "\x00", "a\nb\x1b[2J", b"bytes",
    [], ["x"], [None], ["x", 1], [b"x"], ["\ud800"], (), {"n": 1}, {"x"}, object(), int, len, 1j,
    Fraction(1, 3), Fraction(10**400), np.int64(3), np.float32(0.5), np.float64("nan"),
    np.bool_(True), np.str_("w3 w4"), np.array(["w3"]), np.array([1, 2]), np.zeros((2, 2)),
    Path("x"), range(3), Document("1", "x"), Hit(1, "1", 0.0, 0.0, 0.0, "x", {}), NotImplemented,
]  # fmt: skip
odd = st.one_of(
    st.sampled_from(range(len(ODD))).map(ODD.__getitem__),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    st.lists(st.none() | st.integers() | st.text(max_size=5), max_size=3),
    st.builds(lambda: (each for each in ("w3", "w4"))),
)
OPTIONS = ("k", "method", "alpha", "filter", "min_score", "passages", "encoder")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("calls") / "i"
    build_index(directory, fake_documents(80), FakeEncoder())
    return directory


@pytest.fixture(scope="module")
def index(place: Path) -> Any:
    with Index.open(place, FakeEncoder()) as opened:
        yield opened


def answered(call: Callable[[], object]) -> bool:
    """Whether a call answers; everything that it raises is ours, and one line."""
    try:
        call()
    except MoeeIndexError as error:
        assert "\n" not in str(error) and str(error).strip()
        assert len(str(error)) < 2000
        return False
    return True


@settings(max_examples=400)
@given(query=odd, name=st.sampled_from(OPTIONS), value=odd, other=st.sampled_from(OPTIONS))
@example("w3", "filter", {"n": 1}, "k")
@example("w3", "k", "10", "alpha")
@example("w3", "alpha", "1", "k")
@example(["w3", None], "k", 3, "k")
def test_searches(index: Index, query: Any, name: str, value: Any, other: str) -> None:
    answered(lambda: index.search(query))
    answered(lambda: index.search("w3 w4", **{name: value}))
    answered(lambda: index.search("w3 w4", **{name: value, other: value}))
    embeddings = FakeEncoder().vectors(["w3 w4"])
    options: dict[str, Any] = {"k": 5, name: value}
    options.pop("encoder", None)
    answered(lambda: index.search_embeddings(embeddings, **options))
    answered(lambda: index.search_embeddings(value))
    answered(lambda: index.check_filter(value) if name == "filter" else None)


@settings(max_examples=300)
@given(ids=odd)
def test_look_ups(index: Index, ids: Any) -> None:
    """A generator is gone through once: each call has its own."""
    items = list(ids) if hasattr(ids, "__next__") else None
    for call in (index.documents, index.passages, index.vectors):
        answered(lambda call=call: call(iter(items) if items is not None else ids))  # type: ignore[misc]


@settings(max_examples=300)
@given(hs=odd, rw=odd)
def test_embeddings_of_odd_parts(index: Index, hs: Any, rw: Any) -> None:
    good = FakeEncoder().vectors(["w3 w4"])
    for embeddings in (Embeddings(hs, rw), Embeddings(good.hs, rw), Embeddings(hs, good.rw)):
        assert not answered(lambda given=embeddings: index.search_embeddings(given))  # type: ignore[misc]


HS, RW = np.ones((2, 24), np.float32), np.ones((2, 12), np.float32)


@pytest.mark.parametrize(
    ("hs", "rw", "told"),
    [
        (HS[:1], RW, "HS of the queries has 1 rows and RW 2"),
        (HS[0], RW, r"HS of the queries has shape \(24,\), not \[q, 24\]"),
        (HS, RW[:, :3], r"RW of the queries has shape \(2, 3\), not \[q, 12\]"),
        (HS.astype(str), RW, "HS of the queries is of type <U32, not an array of numbers"),
        (HS.astype(object), RW, "HS of the queries is of type object"),
        (HS.astype(bool), RW, "HS of the queries is of type bool"),
        (HS.astype(complex), RW, "HS of the queries is of type complex128"),
        (HS.tolist(), RW, "HS of the queries is of type list"),
        (HS * np.nan, RW, "HS of row 0 holds values that are not finite"),
        (HS, RW.astype(np.float64) * 1e300, "RW of row 0 holds values that are not finite"),
    ],
)
def test_embeddings_are_named(index: Index, hs: Any, rw: Any, told: str) -> None:
    with pytest.raises(MoeeIndexError, match=told):
        index.search_embeddings(Embeddings(hs, rw))


def test_numbers_of_other_types_are_numbers(index: Index) -> None:
    expected = index.search_embeddings(Embeddings(HS, RW), 5)
    for kind in (np.float16, np.float64, np.int8, np.uint64):
        assert index.search_embeddings(Embeddings(HS.astype(kind), RW.astype(kind)), 5) == expected
    assert index.search("w3 w4", np.int64(5)) == index.search(np.str_("w3 w4"), 5)
    assert index.search("w3", alpha=Fraction(1, 2)) == index.search("w3", alpha=np.float32(0.5))
    assert index.search(text for text in ("w3", "w4")) == index.search(["w3", "w4"])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda i, d: i.documents("d1"), r"ids are given as a list, and this is one text"),
        (lambda i, d: i.vectors("d1"), r"write \[id\]"),
        (lambda i, d: i.vectors(["d1", 1]), "id 1 is of type int, not text"),
        (lambda i, d: i.vectors(["caf\udce9"]), "id 0 is not UTF-8"),
        (lambda i, d: delete_documents(d, "d1"), "ids are given as a list"),
        (lambda i, d: delete_documents(i, ["d1"]), "named by the path of its directory"),
        (lambda i, d: i.search(None), "the query is None, not text"),
        (lambda i, d: i.search(b"w3"), "the query is of type bytes, not text"),
        (lambda i, d: i.search(["w3", 3]), "query 1 is of type int, not text"),
        (lambda i, d: i.search("half \ud83d"), "half a surrogate pair"),
        (lambda i, d: i.search("w3", filter={"n": 1}), "filter is .*; it is text, as in"),
        (lambda i, d: i.search("w3", k="10"), "k is '10'; it must be a whole number"),
        (lambda i, d: i.search("w3", k=10.0), "k is 10.0"),
        (lambda i, d: i.search("w3", k=True), "k is True"),
        (lambda i, d: i.search("w3", alpha="1"), "alpha is '1'"),
        (lambda i, d: i.search("w3", alpha=math.nan), "alpha is nan"),
        (lambda i, d: i.search("w3", alpha=10**400), "alpha is 1000"),
        (lambda i, d: i.search("w3", -(10**5000)), "k is of type int, with thousands of digits"),
        (lambda i, d: build_index(d, [], FakeEncoder(), chunk=10**5000), "thousands of digits"),
        (lambda i, d: build_index(d, [], FakeEncoder(), index_type=3), "index type is of type int"),
        (lambda i, d: i.search("w3", min_score="x"), "min_score is 'x'"),
        (lambda i, d: i.search("w3", passages="no"), "passages is 'no'; it is True or False"),
        (lambda i, d: i.search("w3", encoder="tiny"), "an encoder is needed, not str"),
        (lambda i, d: i.search_embeddings((HS, RW)), r"of type tuple, not Embeddings\(hs, rw\)"),
        (lambda i, d: Index.open(d, "tiny"), "an encoder is needed, not str"),
        (lambda i, d: Index.open(d, block_rows=-1), "block_rows is -1"),
        (lambda i, d: Index.open(b"i"), "not by bytes"),
        (lambda i, d: Index.open("a\0b"), "holds a NUL character"),
        (lambda i, d: build_index(d, "x", FakeEncoder()), r"this is of type str; write \[Document"),
        (lambda i, d: build_index(d, None, FakeEncoder()), "this is of type NoneType"),
        (lambda i, d: build_index(d, Document("1", "x"), FakeEncoder()), "of type Document"),
        (lambda i, d: build_index(d / "n", ["x"], FakeEncoder()), "document 0 is of type str"),
        (lambda i, d: build_index(d, [], "tiny"), "an encoder is needed, not str"),
        (lambda i, d: build_index(d, [], FakeEncoder(), window=0), "window is 0"),
        (lambda i, d: build_index(d, [], FakeEncoder(), store=["float32"]), "store is"),
        (lambda i, d: build_index(d, [], FakeEncoder(), chunk=2.5), "--chunk '2.5'"),
        (lambda i, d: build_index(d, [], FakeEncoder(), notify="x"), "notify is of type str"),
        (lambda i, d: add_documents(d, [{"id": "1"}], FakeEncoder()), "document 0 is of type dict"),
        (lambda i, d: add_documents(d, [], None), "an encoder is needed, not NoneType"),
        (lambda i, d: Document(1, "x"), "a document's id is of type int, not text"),
        (lambda i, d: Document("1", None), "a document's text is of type NoneType, not text"),
        (lambda i, d: Document("1", "x", [1]), "metadata is of type list, not a dict"),
    ],
)
def test_wrong_calls_are_named(
    index: Index, place: Path, call: Callable[[Index, Path], object], told: str
) -> None:
    with pytest.raises(MisuseError, match=told):
        call(index, place)
    assert not (place / "n").exists()


@settings(max_examples=150)
@given(fields=st.lists(odd, min_size=2, max_size=5))
def test_documents_of_odd_fields(tmp_path_factory: pytest.TempPathFactory, fields: Any) -> None:
    try:
        document = Document(*fields)
    except MisuseError:
        return
    directory = tmp_path_factory.mktemp("odd") / "i"
    if answered(lambda: build_index(directory, [document], FakeEncoder())):
        with Index.open(directory) as opened:
            assert list(opened.documents([document.id])) == [document.id]


@pytest.mark.parametrize(
    "metadata",
    [{"n": np.int64(3)}, {"n": math.nan}, {"n": {1, 2}}, {(1, 2): 3}, {"n": b"x"}, {"n": 10**5000}],
)
def test_metadata_that_json_lacks(tmp_path: Path, metadata: Any) -> None:
    with pytest.raises(MoeeIndexError, match="metadata of document 'd' is not JSON"):
        build_index(tmp_path / "i", [Document("d", "x", metadata)], FakeEncoder())


@settings(max_examples=150)
@given(value=odd, other=odd)
def test_directories_and_options(place: Path, value: Any, other: Any) -> None:
    """No call writes: what is named is no index, or the option is refused first."""
    if isinstance(value, str | Path) and str(value) in ("", ".", "x", "id"):
        value = None
    nowhere = place.parent / "nowhere"
    for call in (Index.open, verify_index, compact_index, reindex):
        answered(lambda call=call: call(value))
    answered(lambda: delete_documents(value, other))
    answered(lambda: delete_documents(nowhere, other))
    answered(lambda: save_alpha(nowhere, other))
    answered(lambda: add_documents(nowhere, other, FakeEncoder()))
    answered(lambda: reindex(nowhere, standardize=other))
    answered(lambda: default_index(nowhere))
    for option in ("standardize", "index_type", "store", "chunk", "on_bad", "window"):
        answered(
            lambda option=option: build_index(
                place, fake_documents(80), FakeEncoder(), **{option: other}
            )
        )


def test_closed(place: Path, tmp_path: Path) -> None:
    index = Index.open(place, FakeEncoder())
    assert index.search("w3")
    index.close()
    index.close()
    calls: list[Callable[[], object]] = [
        lambda: index.search("w3"),
        lambda: index.search_embeddings(Embeddings(HS, RW)),
        lambda: index.documents(["d1"]),
        lambda: index.passages(["d1"]),
        lambda: index.vectors(["d1"]),
        lambda: index.fields,
        index.ids,
        index.in_order,
        index.info,
        lambda: index.check_filter("x = 1"),
        lambda: export_index(index, tmp_path / "x.jsonl"),
        lambda: tune_without_labels(index),
    ]
    for call in calls:
        with pytest.raises(MisuseError, match=r"is closed; open it again with Index\.open"):
            call()
    assert (len(index), index.alpha, index.spec.hs_dim) == (80, 1.0, 24)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("away", [pickle.dumps, copy.copy, copy.deepcopy])
def test_nothing_that_is_open_is_pickled(index: Index, away: Callable[[Any], object]) -> None:
    with pytest.raises(MisuseError, match=r"cannot be pickled or copied.*Index\.open"):
        away(index)
    with pytest.raises(MisuseError, match=r"cannot be pickled or copied.*Encoder\.load"):
        away(Encoder.__new__(Encoder))
